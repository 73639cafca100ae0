// The load that one plans for: up to 100 customers, then 500, and down again.

import { lookUps, measureSince } from './caches.js';
import { catalogue, visit } from './shop.js';
import { thresholds } from './targets.js';

export const options = {
  stages: [
    { duration: '1m', target: 100 },
    { duration: '3m', target: 100 },
    { duration: '1m', target: 500 },
    { duration: '3m', target: 500 },
    { duration: '1m', target: 0 },
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
