// Ten times the customers within ten seconds, as after a mention on television, and as quickly gone.

import { thresholds } from './targets.js';

export { setup, default, teardown } from './crowd.js';

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
