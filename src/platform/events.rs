//! Events: what happened, written in the transaction that made it happen.
//!
//! The table is the outbox, the audit trail and the source of the read models at once, and the
//! application's role may only add to it.

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    context::Context,
    db::{Conn, Tx},
};

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
#[derive(Debug)]
pub struct Event {
    pub id: Uuid,
    pub kind: String,
    pub sequence: i32,
    pub data: serde_json::Value,
    pub request_id: Option<String>,
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
    let pending = tx.events();
    pending.ids.push(Uuid::now_v7());
    pending.kinds.push(event.kind);
    pending.subject_ids.push(event.subject_id);
    pending.sequences.push(event.sequence);
    pending.customer_ids.push(event.customer_id);
    pending.data.push(data);
    Ok(())
}

/// Writes the events of a transaction that keeps no answer; one that does writes both by one
/// statement, in `idempotency`.
pub(super) async fn write(conn: &mut Conn, events: &Pending) -> Result<(), sqlx::Error> {
    let context = Context::current();
    sqlx::query!(
        "insert into events
            (id, type, subject_id, sequence, customer_id, data, request_id, traceparent)
         select e.id, e.type, e.subject_id, e.sequence, e.customer_id, e.data::jsonb, $7, $8
         from unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[], $5::uuid[], $6::text[])
             as e (id, type, subject_id, sequence, customer_id, data)",
        &events.ids,
        &events.kinds as _,
        &events.subject_ids,
        &events.sequences,
        &events.customer_ids as _,
        &events.data,
        context.as_ref().map(|context| context.request_id.as_str()),
        context.as_ref().and_then(|context| context.traceparent.as_deref()),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The trail of one subject from sequence number `after` on, oldest first.
///
/// # Errors
/// The database refused.
pub async fn trail(
    conn: &mut Conn,
    subject_id: Uuid,
    after: i32,
    limit: i64,
) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"select id, type as kind, sequence, data, request_id, created_at from events
           where subject_id = $1 and sequence > $2 order by sequence limit $3"#,
        subject_id,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}
