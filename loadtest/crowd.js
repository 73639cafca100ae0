// Customers who browse, and the hit rate of the caches over the whole test.

import { lookUps, measureSince } from './caches.js';
import { catalogue, visit } from './shop.js';

export function setup() {
  return { products: catalogue(), before: lookUps() };
}

export default function customer({ products }) {
  visit(products);
}

export function teardown({ before }) {
  measureSince(before);
}
