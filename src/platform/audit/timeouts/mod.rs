//! Who waits for whom: whoever asks has to wait for longer than whom it asks.
//!
//! Here are the bounds; the rules are in `rules.rs`.

mod rules;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use self::rules::{ENDING, RULES};
use super::{
    deployment::{Deployment, Proxy, Workload},
    finding::broken,
};

/// The bounds of this configuration, of the servers, and of what stands before the replicas.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// `SHOAL_REQUEST_TIMEOUT_MS`.
    pub request: Duration,
    /// `SHOAL_BODY_TIMEOUT_MS`.
    pub body: Duration,
    /// `SHOAL_DB_ACQUIRE_TIMEOUT_MS`.
    pub acquire: Duration,
    /// `SHOAL_DB_LOOK_TIMEOUT_MS`.
    pub look: Duration,
    /// `SHOAL_REDIS_TIMEOUT_MS`.
    pub redis: Duration,
    /// `SHOAL_S3_TIMEOUT_MS`.
    pub s3: Duration,
    /// `SHOAL_JOB_LEASE_MS`.
    pub lease: Duration,
    /// `SHOAL_DRAIN_DELAY_MS` and `SHOAL_DRAIN_CAP_MS`.
    pub drain_delay: Duration,
    pub drain_cap: Duration,
    /// Those of the application's role, if Postgres was asked.
    pub role: Option<RoleTimeouts>,
    /// `query_wait_timeout` of PgBouncer, if it was asked.
    pub query_wait: Option<Duration>,
    pub proxy: Option<Proxy>,
}

/// What Postgres gives a session of the application's role; zero is no bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoleTimeouts {
    pub statement: Duration,
    pub lock: Duration,
    pub idle_in_transaction: Duration,
}

/// How one role of process ends.
pub(super) struct Ending {
    pub(super) drain: Duration,
    pub(super) workload: Workload,
}

impl Timings {
    /// How a replica of the API and a worker end.
    pub(super) fn endings(&self, deployment: &Deployment) -> [(&'static str, Ending); 2] {
        // A worker's health is served through a drain as well, once its jobs have ended.
        let drain = self.drain_delay + self.drain_cap;
        let ending = |workload: &Workload| Ending { drain, workload: workload.clone() };
        [("api", ending(&deployment.api)), ("worker", ending(&deployment.worker))]
    }
}

/// The same rules for bounds that nobody runs yet: what does not hold, as sentences.
pub fn objections(seen: &Timings, deployment: &Deployment) -> Vec<String> {
    let endings = seen.endings(deployment);
    let of_endings = endings.iter().flat_map(|(_, ending)| broken(&ENDING, ending));
    broken(&RULES, seen).chain(of_endings).collect()
}

/// In the unit that reads best.
pub(super) fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".to_owned(),
        millis if millis % 1_000 == 0 => format!("{} s", millis / 1_000),
        millis => format!("{millis} ms"),
    }
}
