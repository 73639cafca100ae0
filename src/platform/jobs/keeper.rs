//! Keeps the leases of a worker's jobs, and records what came of them.
//!
//! One task does both, so that the two never lock the same rows in different orders, and the
//! outcomes of many jobs take one statement.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queries::{self, Outcomes};
use crate::platform::db::{self, Db};

/// Outcomes that one statement records, at most.
const BATCH: usize = 500;

/// Between two attempts to reach a database that is away.
const RETRY: Duration = Duration::from_millis(250);

/// What is to become of a job after an attempt.
pub(super) struct Outcome {
    pub(super) id: Uuid,
    pub(super) fence: i32,
    pub(super) next: Next,
    pub(super) error: Option<String>,
}

pub(super) enum Next {
    Completed,
    /// Due after this long, as another attempt.
    Again(Duration),
    /// Due after this long, as the same attempt.
    Postponed(Duration),
    Dead,
}

impl Next {
    /// The value of a metric's label.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Again(_) => "failed",
            Self::Postponed(_) => "postponed",
            Self::Dead => "dead",
        }
    }
}

/// The jobs of this worker: those that run, and those whose outcome is not recorded yet.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<HashMap<Uuid, Hold>>>);

struct Hold {
    fence: i32,
    /// Cancelled once the job was given to somebody else.
    lost: CancellationToken,
}

impl Held {
    fn map(&self) -> MutexGuard<'_, HashMap<Uuid, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease of this job from now on, until its outcome is recorded.
    pub(super) fn add(&self, id: Uuid, fence: i32) -> CancellationToken {
        let lost = CancellationToken::new();
        self.map().insert(id, Hold { fence, lost: lost.clone() });
        lost
    }

    /// Does not renew this job any more.
    pub(super) fn forget(&self, id: Uuid, fence: i32) {
        let mut map = self.map();
        if map.get(&id).is_some_and(|hold| hold.fence == fence) {
            map.remove(&id);
        }
    }
}

pub(super) struct Keeper {
    pub(super) db: Db,
    pub(super) held: Held,
    pub(super) outcomes: mpsc::Receiver<Outcome>,
    pub(super) lease: Duration,
}

impl Keeper {
    /// Runs until nobody can send outcomes any more, and all of them are recorded.
    pub(super) async fn run(mut self) {
        // Twice may fail, and the lease is still renewed in time.
        let mut renewals = interval(self.lease / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                _ = renewals.tick() => {
                    if let Err(error) = self.renew().await {
                        tracing::warn!(%error, "cannot renew the leases of jobs");
                    }
                }
                count = self.outcomes.recv_many(&mut batch, BATCH), if batch.is_empty() => {
                    if count == 0 {
                        return;
                    }
                }
                // What could not be recorded is not lost while its lease is renewed.
                () = sleep(RETRY), if !batch.is_empty() => {}
            }
            if batch.is_empty() {
                continue;
            }
            match self.record(&batch).await {
                Ok(()) => batch.clear(),
                Err(error) => {
                    tracing::warn!(%error, jobs = batch.len(), "cannot record outcomes of jobs");
                }
            }
        }
    }

    async fn record(&self, batch: &[Outcome]) -> Result<(), db::Error> {
        let mut columns = Outcomes::default();
        for Outcome { id, fence, next, error } in batch {
            let (state, delay, refund) = match next {
                Next::Completed => ("completed", Duration::ZERO, 0),
                Next::Again(delay) => ("scheduled", *delay, 0),
                Next::Postponed(delay) => ("scheduled", *delay, 1),
                Next::Dead => ("dead", Duration::ZERO, 0),
            };
            columns.ids.push(*id);
            columns.fences.push(*fence);
            columns.states.push(state);
            columns.delays.push(delay.as_secs_f64());
            columns.refunds.push(refund);
            columns.errors.push(error.clone());
        }
        let recorded = queries::finish(&mut self.db.primary().await?, &columns).await?;
        if recorded < batch.len() as u64 {
            // Completed by its own transaction, or taken over: nothing is left to be recorded.
            tracing::debug!(others = batch.len() as u64 - recorded, "not this worker's any more");
        }
        for Outcome { id, fence, .. } in batch {
            self.held.forget(*id, *fence);
        }
        Ok(())
    }

    async fn renew(&self) -> Result<(), db::Error> {
        let (ids, fences): (Vec<Uuid>, Vec<i32>) =
            self.held.map().iter().map(|(id, hold)| (*id, hold.fence)).unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let mut conn = self.db.primary().await?;
        let lost = queries::renew(&mut conn, &ids, &fences, self.lease).await?;
        let map = self.held.map();
        for (id, fence) in ids.iter().zip(fences) {
            if lost.contains(id)
                && let Some(hold) = map.get(id).filter(|hold| hold.fence == fence)
            {
                hold.lost.cancel();
            }
        }
        Ok(())
    }
}
