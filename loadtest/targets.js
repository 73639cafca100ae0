// What the service promises, as thresholds: k6 ends with an error if one is missed.

export const targets = {
  'http_req_duration{kind:shop}': ['med<50', 'p(99)<200'],
  'http_req_failed{kind:shop}': ['rate<0.001'],
  checks: ['rate>0.999'],
};

// Only where the replicas' metrics can be read: see README.md.
export const cacheTarget = { cache_hit_rate: ['min>0.9'] };

export function thresholds() {
  return __ENV.METRICS_URLS ? { ...targets, ...cacheTarget } : targets;
}
