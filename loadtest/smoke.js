// Does it work at all? Five customers for half a minute.

import { lookUps, measureSince } from './caches.js';
import { catalogue, visit } from './shop.js';
import { thresholds } from './targets.js';

export const options = {
  vus: 5,
  duration: '30s',
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
