//! Settings of the work outside of requests.

use crate::platform::{
    env::{Env, millis, secs},
    jobs,
};

pub(in crate::config) fn declare_jobs(env: &mut Env<'_>) -> Option<jobs::Config> {
    let poll = env.or_default(
        "SHOAL_JOB_POLL_MS",
        "1000",
        "how often a worker looks for jobs and events that nobody told it of",
        millis,
    );
    let lease = env.or_default(
        "SHOAL_JOB_LEASE_MS",
        "30000",
        "a job is another worker's once its own has not been heard of for this long",
        millis,
    );
    let retention = env.or_default(
        "SHOAL_JOB_RETENTION_SECS",
        "604800",
        "how long a finished job is kept",
        secs,
    );
    Some(jobs::Config { poll: poll?, lease: lease?, retention: retention? })
}
