//! The primary as reads see it: what is left of it when the writers have theirs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use tokio::{sync::Semaphore, time::timeout};

use super::{conn::Conn, error::Error, pool::Pool, sampler::Pace};
use crate::platform::context;

pub(super) struct Primary {
    pub(super) pool: Pool,
    pub(super) pace: Pace,
    /// Reads that should have gone to a replica pass here, so that all of them together leave
    /// connections to the writers. Closed only with the process.
    bulkhead: Option<Arc<Semaphore>>,
    acquire_timeout: Duration,
    moved: IntCounter,
}

impl Primary {
    /// With a bulkhead if there are `replicas`: without any, reads belong here.
    pub(super) fn new(
        pool: Pool,
        pool_size: usize,
        acquire_timeout: Duration,
        replicas: usize,
        moved: IntCounter,
    ) -> Self {
        let half = (pool_size / 2).max(1);
        let bulkhead = (replicas > 0).then(|| Arc::new(Semaphore::new(half)));
        Self { pool, pace: Pace::default(), bulkhead, acquire_timeout, moved }
    }

    /// A connection for a read that has failed on a replica; as [`Primary::for_reads`].
    pub(super) async fn for_moved(&self) -> Result<Conn, Error> {
        self.moved.inc();
        self.for_reads().await
    }

    /// A connection for a read that no replica can serve, within one acquire time-out.
    ///
    /// # Errors
    /// `Busy` when the bulkhead or the pool stayed full, `Unreachable` at once while the primary
    /// is known to be away.
    pub(super) async fn for_reads(&self) -> Result<Conn, Error> {
        let Some(bulkhead) = &self.bulkhead else { return self.pool.get().await };
        self.pool.check()?;
        let start = Instant::now();
        let limit = context::remaining(self.acquire_timeout);
        let busy = Error::Busy(self.pool.name());
        let Ok(Ok(permit)) = timeout(limit, bulkhead.clone().acquire_owned()).await else {
            return Err(busy);
        };
        let left = self.acquire_timeout.saturating_sub(start.elapsed());
        Ok(self.pool.get_within(left).await?.through(permit))
    }
}
