//! What a write does to the caches: bury before the commit, settle after it.
//!
//! Buried first, since a process may be killed right after its commit; settled with the position
//! of the commit, so that the next load is kept again, if it has got that far.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    near::Near,
    store::{Slot, Store},
};
use crate::platform::{context, db::Lsn};

/// Round trips at the same time, for a transaction that changes thousands of things.
const AT_ONCE: usize = 64;

/// An entry that a transaction is about to make stale.
#[derive(Clone)]
pub struct Eviction {
    pub(super) store: Arc<Store>,
    pub(super) slot: Slot,
    /// The copies of this process, which need not wait for the message.
    pub(super) near: Near,
    /// `None`: all of them.
    pub(super) key: Option<u128>,
    /// What tells the near caches.
    pub(super) message: String,
    pub(super) repairs: mpsc::Sender<Repair>,
}

impl Eviction {
    fn evict_near(&self) {
        match self.key {
            Some(key) => self.near.evict(key),
            None => self.near.clear(),
        }
    }

    /// Makes sure that nothing older than `lsn` is kept, however late. Whether Redis heard of it.
    pub async fn repeat(&self, lsn: Lsn) -> bool {
        self.store.settle(&self.slot, "", lsn, &self.message).await.is_ok()
    }
}

/// An eviction that Redis did not hear of, and the commit that it belongs to.
pub(super) struct Repair {
    pub(super) eviction: Eviction,
    pub(super) lsn: Lsn,
}

/// Entries that nobody reads or keeps until their writer has settled them.
#[must_use = "they stay closed for half a minute unless they are settled"]
pub struct Burial {
    writer: String,
    /// Each with whether Redis heard of it.
    evictions: Vec<(Eviction, bool)>,
}

impl Burial {
    /// Closes all `evictions`, before the commit. With Redis away there is nothing to close, or
    /// nobody who could: [`Burial::settle`] sees to it.
    pub async fn of(evictions: Vec<Eviction>) -> Self {
        let writer = if evictions.is_empty() { String::new() } else { Uuid::new_v4().to_string() };
        let bury = evictions.into_iter().map(async |eviction| {
            let Eviction { store, slot, message, .. } = &eviction;
            let is_buried = store.bury(slot, &writer, message).await.is_ok();
            eviction.evict_near();
            (eviction, is_buried)
        });
        let evictions = stream::iter(bury).buffer_unordered(AT_ONCE).collect().await;
        Self { writer, evictions }
    }

    /// Opens them for loads that contain the commit at `lsn`.
    pub async fn settle(self, lsn: Lsn) {
        let Self { writer, evictions } = self;
        let settle = evictions.into_iter().map(async |(eviction, is_buried)| {
            let Eviction { store, slot, message, .. } = &eviction;
            let is_settled = store.settle(slot, &writer, lsn, message).await.is_ok();
            if !is_buried {
                // Until now somebody may have found it, and taken it for newer than it is.
                context::note_left_stale();
            }
            // One that stays buried only stays cold for a while.
            if !is_buried && !is_settled {
                Repair { eviction, lsn }.hand_over();
            }
        });
        stream::iter(settle).buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

impl Repair {
    fn hand_over(self) {
        let repairs = self.eviction.repairs.clone();
        if let Err(error) = repairs.try_send(self) {
            tracing::error!(%error, "a stale entry may be served until its life is over");
        }
    }

    /// Whether Redis has heard of it now.
    pub(super) async fn retry(&self) -> bool {
        self.eviction.repeat(self.lsn).await
    }
}
