// Does it work at all? Five customers for half a minute.

import { catalogue, visit } from './shop.js';
import { targets } from './targets.js';

export const options = {
  vus: 5,
  duration: '30s',
  // Without that of the caches: half a minute is hardly enough to warm them.
  thresholds: targets,
};

export function setup() {
  return { products: catalogue() };
}

export default function customer({ products }) {
  visit(products);
}
