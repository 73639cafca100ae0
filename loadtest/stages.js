// The load that one plans for: up to 100 customers, then 500, and down again.

import { thresholds } from './targets.js';

export { setup, default, teardown } from './crowd.js';

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
