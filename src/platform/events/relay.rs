//! Passes events on: out of the outbox, into a job for each subscriber that must have it once, and
//! to whoever listens at Redis.
//!
//! Every worker runs one. What one relay has taken the others skip, so that events of one subject
//! may be passed on in another order than they happened in: `sequence` tells.
//!
//! What Redis did not take into the stream for other services stays in Postgres, by the same
//! transaction, and follows once it does: before anything newer, by one relay at a time.

use std::{sync::Arc, time::Duration};

use sqlx::Row;
use tokio::time::sleep;

pub(in crate::platform) use super::queries::{pending, unstreamed};
use super::{
    publish::{Publisher, To},
    queries,
};
use crate::platform::{
    bell::Bell,
    db::{self, Db},
    jobs::{self, Registry},
    redis::Redis,
};

/// Events that are passed on by one transaction, at most.
const BATCH: i64 = 200;

/// Events that are appended to the stream by one transaction once Redis is back: more than are
/// passed on meanwhile.
const CATCH_UP_BATCH: i64 = 500;

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
                Ok(Left::More) => {}
                Ok(Left::Nothing) => {
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

    /// One batch.
    async fn pass_on(&self) -> Result<Left, db::Error> {
        let (mut tx, answer) = self.db.begin_with(queries::IS_BEHIND).await?;
        let is_behind = answer.map(|row| row.try_get(0)).transpose()?.unwrap_or(false);
        let events = queries::take(&mut tx, BATCH).await?;
        if events.is_empty() {
            drop(tx);
            let _ = self.publisher.publish(&[], To::Listeners).await;
            return if is_behind { self.catch_up().await } else { Ok(Left::Nothing) };
        }
        let jobs = self.registry.jobs_for(&events)?;
        jobs::enqueue_all(&mut tx, &jobs).await?;
        // Before the commit: they have happened, whatever becomes of this transaction, and being
        // told twice is better than never.
        let to = if is_behind { To::Listeners } else { To::Everybody };
        let published = self.publisher.publish(&events, to).await;
        let rest = events.get(published.unwrap_or(0)..).unwrap_or_default();
        if !rest.is_empty() {
            queries::keep_for_stream(&mut tx, rest).await?;
        }
        tx.commit().await?;
        let left = if events.len() as i64 == BATCH { Left::More } else { Left::Nothing };
        match published {
            Ok(_) if is_behind => Ok(left.max(self.catch_up().await?)),
            Ok(_) => Ok(left),
            Err(_) => {
                tracing::debug!(
                    events = events.len(),
                    "Redis is away: nobody hears of these events"
                );
                Ok(left)
            }
        }
    }

    /// Appends to the stream what it did not take before, the oldest first.
    async fn catch_up(&self) -> Result<Left, db::Error> {
        let mut tx = self.db.begin().await?;
        let events = queries::take_unstreamed(&mut tx, CATCH_UP_BATCH).await?;
        let Ok(appended) = self.publisher.publish(&events, To::Stream).await else {
            return Ok(Left::Nothing);
        };
        let rest = events.get(appended..).unwrap_or_default();
        if !rest.is_empty() {
            queries::keep_for_stream(&mut tx, rest).await?;
        }
        tx.commit().await?;
        let is_all = appended < events.len() || (events.len() as i64) < CATCH_UP_BATCH;
        Ok(if is_all { Left::Nothing } else { Left::More })
    }
}

/// What is to be done after a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// Perhaps more of the same, at once.
    More,
}
