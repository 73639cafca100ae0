//! Feeds the read model.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::queries;
use crate::{
    platform::{
        db,
        events::Event,
        jobs::{Failure, Job, Lease, Queue, jittered},
    },
    state::AppState,
};

/// Two, so that the next batch is read while one waits for its commit. More would only wait for
/// each other at the rows of today.
const QUEUE: Queue = Queue { name: "reports", concurrency: 2 };

/// Before it is tried again while somebody has locked the sums.
const LOCKED_WAIT: Duration = Duration::from_secs(2);

/// Adds what was told of together: a row of the day changes once for all of them.
#[derive(Serialize, Deserialize)]
pub(super) struct AddToSales {
    event_ids: Vec<Uuid>,
}

impl AddToSales {
    /// The events among these that change sales.
    pub(super) fn of(events: &[Event]) -> Option<Self> {
        let matters = |event: &&Event| {
            ["order.created", "order.cancelled", "order.payment_failed"]
                .contains(&event.kind.as_str())
        };
        let event_ids: Vec<Uuid> = events.iter().filter(matters).map(|event| event.id).collect();
        (!event_ids.is_empty()).then_some(Self { event_ids })
    }
}

impl Job for AddToSales {
    type State = AppState;

    const KIND: &'static str = "reports.add_to_sales";
    const QUEUE: &'static Queue = &QUEUE;

    async fn run(self, app: &AppState, lease: &Lease) -> Result<(), Failure> {
        let mut tx = app.db.begin().await?;
        lease.complete(&mut tx).await?;
        let lag = match queries::add(&mut tx, &self.event_ids).await.map_err(db::Error::from) {
            // While the sums are made anew, they are locked for as long as that takes: no reason
            // to give up.
            Err(error) if error.lost_a_lock() => {
                return Err(Failure::Postpone(jittered(LOCKED_WAIT)));
            }
            lag => lag?,
        };
        tx.commit().await?;
        if let Some(seconds) = lag {
            app.reports_lag.observe(seconds);
        }
        Ok(())
    }
}
