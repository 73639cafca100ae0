//! The checklist for scaling out: looks at every server and at the configuration, and judges.
//!
//! Looking and judging are apart. A look fills a plain struct with what a server says, within a
//! time-out, at the same time as all other looks. Rules are functions over such structs, so they
//! can be tried on numbers that nobody runs. A server that does not answer fails its own check
//! and has those skipped that need it.
//!
//! Reading order: `finding.rs`, `deployment.rs`, `connections.rs`, `timeouts.rs`; then a server,
//! such as `redis.rs`; then `look.rs`, which asks all of them.

mod bucket;
mod clock;
pub mod connections;
mod databases;
pub mod deployment;
mod finding;
mod look;
pub mod manifest;
pub mod nginx;
mod pooler;
mod postgres;
mod queries;
mod redis;
mod replica;
mod replies;
mod schema;
mod settings;
pub mod timeouts;

use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use self::deployment::Deployment;
pub use self::{
    finding::{Finding, Outcome},
    look::audit,
};
use super::{cache, db, http::layers, jobs, mail, remote_api, storage, tokens};

/// What is looked at.
#[derive(Clone)]
pub struct Subject {
    pub database: db::Config,
    pub redis: super::redis::Config,
    pub cache: cache::Config,
    pub storage: storage::Config,
    pub jobs: jobs::Config,
    pub payments: Option<remote_api::Config>,
    pub mail: Option<mail::Config>,
    pub tokens: tokens::Config,
    pub layers: layers::Config,
    pub drain_delay: Duration,
    pub drain_cap: Duration,
    pub trusted_proxies: Vec<IpNet>,
    pub webhooks_reach_everything: bool,
    /// Whether the way to change the schema is set here.
    pub has_direct_url: bool,
    pub deployment: Deployment,
    /// Where running replicas answer for their health.
    pub replicas: Vec<Url>,
    /// How long each look may take.
    pub patience: Duration,
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub noted: usize,
}

impl Totals {
    pub fn of(findings: &[Finding]) -> Self {
        let mut totals = Self::default();
        for finding in findings {
            *match finding.outcome {
                Outcome::Passed => &mut totals.passed,
                Outcome::Failed => &mut totals.failed,
                Outcome::Skipped => &mut totals.skipped,
                Outcome::Noted => &mut totals.noted,
            } += 1;
        }
        totals
    }
}
