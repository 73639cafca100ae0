// What shows only after hours: leaks, partitions, tokens that end. DURATION is 2h if not given.

import { thresholds } from './targets.js';

export { setup, default, teardown } from './crowd.js';

export const options = {
  vus: 100,
  duration: __ENV.DURATION || '2h',
  thresholds: thresholds(),
};
