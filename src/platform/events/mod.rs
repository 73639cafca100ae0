//! Events: what happened, written in the transaction that made it happen.
//!
//! The table is the outbox, the audit trail and the source of the read models at once, and the
//! application's role may only add to it. The relay of any worker passes every event on: as a job
//! to each subscriber that must have it once, and over Redis to whoever listens.
//!
//! Reading order: this file, `relay.rs`, `publish.rs`, `feed.rs`.

pub mod feed;
mod publish;
mod queries;
pub mod relay;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

pub(super) use self::queries::write;
pub use self::queries::{trail, trails};
use super::db::Tx;

/// Something that happened to one subject.
pub struct NewEvent<'a, T> {
    /// `<resource>.<past participle>`, such as `order.created`.
    pub kind: &'static str,
    pub subject_id: Uuid,
    /// The version of the subject that it made. Clocks of replicas differ, this does not.
    pub sequence: i32,
    /// Whose data it is, if anybody's.
    pub customer_id: Option<Uuid>,
    pub data: &'a T,
}

/// An event as it was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    pub id: Uuid,
    pub kind: String,
    pub subject_id: Uuid,
    pub sequence: i32,
    pub customer_id: Option<Uuid>,
    pub data: serde_json::Value,
    pub request_id: Option<String>,
    pub traceparent: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Events of a transaction that are not written yet, as columns: one statement takes all of them.
#[derive(Default)]
pub struct Pending {
    pub(super) ids: Vec<Uuid>,
    pub(super) kinds: Vec<&'static str>,
    pub(super) subject_ids: Vec<Uuid>,
    pub(super) sequences: Vec<i32>,
    pub(super) customer_ids: Vec<Option<Uuid>>,
    /// JSON.
    pub(super) data: Vec<String>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Adds one event to the transaction, which writes it just before its commit. It exists if, and
/// only if, the transaction commits.
///
/// # Errors
/// The data cannot be serialised: a bug.
pub fn emit<T: Serialize>(tx: &mut Tx, event: &NewEvent<'_, T>) -> Result<(), sqlx::Error> {
    let data =
        serde_json::to_string(event.data).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    tx.leaves_work();
    let pending = tx.events();
    pending.ids.push(Uuid::now_v7());
    pending.kinds.push(event.kind);
    pending.subject_ids.push(event.subject_id);
    pending.sequences.push(event.sequence);
    pending.customer_ids.push(event.customer_id);
    pending.data.push(data);
    Ok(())
}
