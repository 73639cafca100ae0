// Ten times the customers within ten seconds, as after a mention on television, and as quickly gone.

import { lookUps, measureSince } from './caches.js';
import { catalogue, visit } from './shop.js';
import { thresholds } from './targets.js';

export const options = {
  stages: [
    { duration: '1m', target: 50 },
    { duration: '10s', target: 500 },
    { duration: '1m', target: 500 },
    { duration: '10s', target: 50 },
    { duration: '1m', target: 50 },
  ],
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
