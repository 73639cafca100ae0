//! Passes events on: out of the outbox, into a job for each subscriber that must have it once, and
//! to whoever listens at Redis.
//!
//! Every worker runs one. What one relay has taken the others skip, so that events of one subject
//! may be passed on in another order than they happened in: `sequence` tells.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

pub(in crate::platform) use super::queries::pending;
use super::{publish::Publisher, queries};
use crate::platform::{
    bell::Bell,
    db::{self, Db},
    jobs::{self, Registry},
    redis::Redis,
};

/// Events that are passed on by one transaction, at most.
const BATCH: i64 = 200;

/// Between two attempts to reach a database that is away.
const RETRY: Duration = Duration::from_millis(250);

pub struct Relay<S> {
    db: Db,
    publisher: Publisher,
    registry: Arc<Registry<S>>,
    poll: Duration,
}

impl<S: Clone + Send + Sync + 'static> Relay<S> {
    pub fn new(db: Db, redis: Redis, registry: Arc<Registry<S>>, poll: Duration) -> Self {
        Self { db, publisher: Publisher::new(redis), registry, poll }
    }

    /// Runs until it is dropped. `told` is rung when another process has left events.
    pub async fn run(&self, told: &Bell) {
        let (mut here, mut elsewhere) = (self.db.bell().listen(), told.listen());
        loop {
            match self.pass_on().await {
                Ok(count) if count as i64 == BATCH => {}
                Ok(_) => {
                    tokio::select! {
                        () = here.rung() => {}
                        () = elsewhere.rung() => {}
                        () = sleep(self.poll) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot pass events on");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// One batch: how many events there were.
    async fn pass_on(&self) -> Result<usize, db::Error> {
        let mut tx = self.db.begin().await?;
        let events = queries::take(&mut tx, BATCH).await?;
        if events.is_empty() {
            let _ = self.publisher.publish(&[]).await;
            return Ok(0);
        }
        let jobs = self.registry.jobs_for(&events)?;
        jobs::enqueue_all(&mut tx, &jobs).await?;
        // Before the commit: they have happened, whatever becomes of this transaction, and being
        // told twice is better than never.
        if self.publisher.publish(&events).await.is_err() {
            tracing::debug!(events = events.len(), "Redis is away: nobody listens to these events");
        }
        tx.commit().await?;
        Ok(events.len())
    }
}
