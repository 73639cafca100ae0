//! The same algorithm within this process, for while Redis is away.

use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::{Decision, Policy};

/// Buckets kept at most: a flood of addresses must not become a flood of memory.
const BUCKETS: u64 = 100_000;

pub(super) struct LocalBuckets {
    share: f64,
    epoch: Instant,
    /// The theoretical arrival time of each bucket, in microseconds since `epoch`.
    arrivals: Cache<String, u64>,
}

impl LocalBuckets {
    pub(super) fn new(share: f64) -> Self {
        Self {
            share,
            epoch: Instant::now(),
            arrivals: Cache::builder()
                .max_capacity(BUCKETS)
                .time_to_idle(Duration::from_secs(15 * 60))
                .build(),
        }
    }

    pub(super) fn forgive(&self, bucket: &str) {
        self.arrivals.invalidate(bucket);
    }

    pub(super) fn check(&self, policy: Policy, bucket: String, cost: u32) -> Decision {
        let quota = ((f64::from(policy.quota) * self.share) as u32).max(1);
        let policy = Policy { quota, ..policy };
        let now = self.epoch.elapsed().as_micros() as u64;
        let interval = policy.interval_micros();
        let limit = now + interval * u64::from(quota);
        let mut counted = (0, 0, 0, 0);
        // `and_compute_with` holds the bucket's lock: two requests cannot both take the last one.
        self.arrivals.entry(bucket).and_compute_with(|entry| {
            let arrival = entry.map_or(now, moka::Entry::into_value).max(now);
            let after = arrival + interval * u64::from(cost);
            if after > limit {
                let left = (limit.saturating_sub(arrival) / interval) as u32;
                counted = (0, left, arrival - now, after - limit);
                return moka::ops::compute::Op::Nop;
            }
            counted = (1, ((limit - after) / interval) as u32, after - now, 0);
            if cost == 0 { moka::ops::compute::Op::Nop } else { moka::ops::compute::Op::Put(after) }
        });
        Decision::new(policy, counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_the_share_and_says_when_to_return() {
        let policy = Policy { name: "test", quota: 10, window: Duration::from_secs(600) };
        let buckets = LocalBuckets::new(0.5);
        let check = |cost| buckets.check(policy, "someone".to_owned(), cost);
        for left in (0..5).rev() {
            let decision = check(1);
            assert!(decision.allowed);
            assert_eq!(decision.remaining, left);
        }
        let refused = check(1);
        assert!(!refused.allowed);
        assert!(refused.retry_after > Duration::ZERO);
        assert!(check(0).allowed, "looking is free");
        assert!(buckets.check(policy, "else".to_owned(), 1).allowed);
    }
}
