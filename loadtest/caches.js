// The hit rate of the caches while the test ran, from the replicas' own counters.

import http from 'k6/http';
import { Trend } from 'k6/metrics';

const hitRate = new Trend('cache_hit_rate');
const urls = (__ENV.METRICS_URLS || '').split(',').filter((url) => url !== '');

// Hits and look-ups of all replicas so far.
export function lookUps() {
  const sums = { hits: 0, all: 0 };
  for (const url of urls) {
    for (const line of http.get(url, { tags: { name: 'GET /metrics' } }).body.split('\n')) {
      const found = line.match(/^cache_requests_total\{.*result="(hit|stale|miss|bypass)".*\} (\S+)$/);
      if (found) {
        const count = Number(found[2]);
        sums.all += count;
        sums.hits += ['hit', 'stale'].includes(found[1]) ? count : 0;
      }
    }
  }
  return sums;
}

// Adds the hit rate since `before`, if there were look-ups.
export function measureSince(before) {
  const now = lookUps();
  if (now.all > before.all) {
    hitRate.add((now.hits - before.hits) / (now.all - before.all));
  }
}
