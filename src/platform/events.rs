//! Events: what happened, written in the transaction that made it happen.
//!
//! The table is the outbox, the audit trail and the source of the read models at once, and the
//! application's role may only add to it.

use serde::Serialize;
use sqlx::types::Json;
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

/// Writes one event. It exists if, and only if, the transaction commits.
///
/// # Errors
/// The database refused.
pub async fn emit<T: Serialize + Sync>(
    tx: &mut Tx,
    event: &NewEvent<'_, T>,
) -> Result<(), sqlx::Error> {
    let context = Context::current();
    let conn: &mut Conn = tx;
    sqlx::query!(
        "insert into events
            (id, type, subject_id, sequence, customer_id, data, request_id, traceparent)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        Uuid::now_v7(),
        event.kind,
        event.subject_id,
        event.sequence,
        event.customer_id,
        Json(event.data) as _,
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
