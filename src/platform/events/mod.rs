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
use serde_json::value::{RawValue, to_raw_value};
use time::OffsetDateTime;
use uuid::Uuid;

pub(super) use self::queries::writing;
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

/// An event of a transaction that is under way.
#[derive(Serialize)]
pub struct Emitted {
    id: Uuid,
    kind: &'static str,
    subject_id: Uuid,
    sequence: i32,
    customer_id: Option<Uuid>,
    data: Box<RawValue>,
}

/// Adds one event to the transaction, which writes it just before its commit. It exists if, and
/// only if, the transaction commits.
///
/// # Errors
/// The data cannot be serialised: a bug.
pub fn emit<T: Serialize>(tx: &mut Tx, event: &NewEvent<'_, T>) -> Result<(), sqlx::Error> {
    let data = to_raw_value(event.data).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let NewEvent { kind, subject_id, sequence, customer_id, .. } = *event;
    let id = Uuid::now_v7();
    tx.emit(Emitted { id, kind, subject_id, sequence, customer_id, data });
    Ok(())
}
