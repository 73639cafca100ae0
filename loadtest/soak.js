// What shows only after hours: leaks, partitions, tokens that end. DURATION is 2h if not given.

import { lookUps, measureSince } from './caches.js';
import { catalogue, visit } from './shop.js';
import { thresholds } from './targets.js';

export const options = {
  vus: 100,
  duration: __ENV.DURATION || '2h',
  thresholds: thresholds(),
};

export function setup() {
  return { products: catalogue(), before: lookUps() };
}

export default function customer({ products }) {
  visit(products);
}

export function teardown({ before }) {
  measureSince(before);
}
