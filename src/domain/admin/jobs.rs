//! Schedules that keep the platform's tables in order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    platform::jobs::{Failure, Job, Lease, Queue, Registry},
    state::AppState,
};

/// One at a time in each worker: nothing of it is urgent, and all of it is heavy.
const MAINTENANCE: Queue = Queue { name: "maintenance", concurrency: 1 };

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new()
        .schedule("maintenance.purge", 10 * MINUTE, || Purge {})
        .schedule("maintenance.partitions", DAY, || RenewPartitions {})
        .schedule("maintenance.statistics", DAY, || RefreshStatistics {})
}

/// Removes answers to old idempotency keys, finished jobs, old ticks, and sessions that are over.
#[derive(Serialize, Deserialize)]
struct Purge {}

impl Job for Purge {
    type State = AppState;
    const KIND: &'static str = "maintenance.purge";
    const QUEUE: &'static Queue = &MAINTENANCE;
    /// After the first days without a worker there may be much to do.
    const TIMEOUT: Duration = Duration::from_secs(600);

    fn unique_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        match app.upkeep.purge().await? {
            Some(purged) => tracing::info!(?purged, "purged"),
            None => tracing::info!("another process is purging"),
        }
        Ok(())
    }
}

/// Makes the partitions of months to come, and detaches old ones if so configured.
#[derive(Serialize, Deserialize)]
struct RenewPartitions {}

impl Job for RenewPartitions {
    type State = AppState;
    const KIND: &'static str = "maintenance.partitions";
    const QUEUE: &'static Queue = &MAINTENANCE;

    fn unique_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        Ok(app.upkeep.renew_partitions().await?)
    }
}

#[derive(Serialize, Deserialize)]
struct RefreshStatistics {}

impl Job for RefreshStatistics {
    type State = AppState;
    const KIND: &'static str = "maintenance.statistics";
    const QUEUE: &'static Queue = &MAINTENANCE;
    const TIMEOUT: Duration = Duration::from_secs(300);

    fn unique_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        Ok(app.upkeep.refresh_statistics().await?)
    }
}
