//! A circuit breaker: after a few failures in a row a dependency is left alone for a moment,
//! so that no request pays for a time-out that the one before it has already paid for.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use prometheus::{IntGauge, IntGaugeVec, core::Collector};

use super::metrics::Metrics;

/// Failures in a row that open the breaker. Few, since each of them cost somebody a time-out.
const THRESHOLD: u32 = 3;

/// How long an open breaker keeps calls away before it lets one through as a probe.
const COOLDOWN: Duration = Duration::from_secs(1);

/// `circuit_breaker_state{target}`: makes the breakers of all dependencies. Cheap to clone.
#[derive(Clone)]
pub struct Breakers {
    states: IntGaugeVec,
}

impl Breakers {
    /// # Errors
    /// The metric was registered before.
    pub fn new(metrics: &Metrics) -> prometheus::Result<Self> {
        let states = metrics.int_gauge_vec(
            "circuit_breaker_state",
            "0 while calls pass, 1 while they are kept away.",
            &["target"],
        )?;
        Ok(Self { states })
    }

    /// The breaker before one dependency.
    pub fn named(&self, target: &str) -> Breaker {
        Breaker::new(self.states.with_label_values(&[target]))
    }

    /// The targets that calls are kept away from now.
    pub fn open(&self) -> Vec<String> {
        let families = self.states.collect();
        let states = families.iter().flat_map(|family| family.get_metric());
        let open = states.filter(|state| state.get_gauge().get_value() > 0.0);
        open.flat_map(|state| state.get_label()).map(|label| label.value().to_owned()).collect()
    }
}

/// The state of one dependency as this process has seen it.
pub struct Breaker {
    failures: AtomicU32,
    /// Milliseconds since `epoch` until which calls are refused; 0 while closed.
    open_until: AtomicU64,
    epoch: Instant,
    /// 0 closed, 1 open.
    state: IntGauge,
}

impl Breaker {
    pub fn new(state: IntGauge) -> Self {
        state.set(0);
        Self {
            failures: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
            epoch: Instant::now(),
            state,
        }
    }

    /// Whether a call may be made now. While open, one caller per cool-down gets a `true`: the
    /// probe. A probe that is never reported back costs another cool-down, not the dependency.
    pub fn allows(&self) -> bool {
        let until = self.open_until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        let now = self.now();
        now >= until
            && self
                .open_until
                .compare_exchange(
                    until,
                    now + COOLDOWN.as_millis() as u64,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Whether calls are being kept away.
    pub fn is_open(&self) -> bool {
        self.open_until.load(Ordering::Acquire) != 0
    }

    pub fn record_success(&self) {
        // Reads first: the healthy case must not bounce a cache line between cores.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.is_open() {
            self.open_until.store(0, Ordering::Release);
            self.state.set(0);
        }
    }

    /// Whether calls are kept away from now on.
    pub fn record_failure(&self) -> bool {
        let opens = self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= THRESHOLD;
        if opens {
            let until = self.now() + COOLDOWN.as_millis() as u64;
            self.open_until.store(until, Ordering::Release);
            self.state.set(1);
        }
        opens
    }

    /// At least 1, since 0 stands for "closed".
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(IntGauge::new("test", "test").unwrap())
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let breaker = breaker();
        breaker.record_failure();
        breaker.record_failure();
        breaker.record_success();
        breaker.record_failure();
        breaker.record_failure();
        assert!(breaker.allows());
        breaker.record_failure();
        assert!(!breaker.allows());
        assert!(breaker.is_open());
    }

    #[test]
    fn lets_one_probe_through_after_the_cool_down() {
        let breaker = breaker();
        for _ in 0..THRESHOLD {
            breaker.record_failure();
        }
        // As if the cool-down had passed.
        breaker.open_until.store(1, Ordering::Release);
        assert!(breaker.allows());
        assert!(!breaker.allows(), "only one probe per cool-down");
        breaker.record_success();
        assert!(breaker.allows() && breaker.allows());
    }
}
