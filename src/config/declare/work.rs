//! Settings of the work outside of requests.

use super::{super::Orders, HOUR_MS, YEARS_SECS};
use crate::platform::{
    env::{Env, millis, positive, secs},
    jobs, streams,
};

pub(in crate::config) fn declare_jobs(env: &mut Env<'_>) -> Option<jobs::Config> {
    let poll = env.or_default(
        "SHOAL_JOB_POLL_MS",
        "1000",
        "how often a worker looks for jobs and events that nobody told it of",
        // Twice, and a worker does not count as dead yet.
        millis(10..=30_000),
    );
    let lease = env.or_default(
        "SHOAL_JOB_LEASE_MS",
        "30000",
        "a job is another worker's once its own has not been heard of for this long",
        millis(500..=HOUR_MS),
    );
    let retention = env.or_default(
        "SHOAL_JOB_RETENTION_SECS",
        "604800",
        "how long a finished job is kept; dead letters stay until somebody discards them",
        secs(1..=YEARS_SECS),
    );
    Some(jobs::Config { poll: poll?, lease: lease?, retention: retention? })
}

pub(super) fn declare_months_kept(env: &mut Env<'_>) -> Option<Option<i32>> {
    env.optional(
        "SHOAL_PARTITION_KEEP_MONTHS",
        "months before the current one whose events and orders stay in their tables; older ones \
         are detached. Unset: all",
        positive,
    )
}

pub(super) fn declare_orders(env: &mut Env<'_>) -> Option<Orders> {
    let term = env.or_default(
        "SHOAL_ORDER_PAYMENT_SECS",
        "86400",
        "an order that is not paid within this time is cancelled, and its stock returned",
        secs(1..=YEARS_SECS),
    );
    Some(Orders { payment_term: term? })
}

pub(super) fn declare_streams(env: &mut Env<'_>) -> Option<streams::Config> {
    let max = env.or_default(
        "SHOAL_STREAMS_MAX",
        "5000",
        "open streams of events in this process; each takes one of SHOAL_MAX_CONNECTIONS",
        positive,
    );
    let max_per_user =
        env.or_default("SHOAL_STREAMS_MAX_PER_USER", "5", "of them of one user", positive);
    Some(streams::Config { max: max?, max_per_user: max_per_user? })
}
