//! The statements behind idempotency keys.

use std::fmt::Write;

use bytes::Bytes;
use http::StatusCode;
use sqlx::{Row, postgres::PgRow};

use super::{Claim, Reply};
use crate::platform::{
    context::Context,
    db::{self, Conn, Db, Tx},
};

/// What is known of a scope.
pub(super) enum Found {
    /// Nothing, and the lock is ours until the transaction ends.
    Nothing,
    /// Another transaction holds the lock.
    Locked,
    Finished {
        body_hash: Vec<u8>,
        reply: Reply,
    },
}

/// Opens a transaction, takes the lock and looks for an answer, in one round trip. `migrations/`
/// has the function.
pub(super) async fn begin(db: &Db, lock: i64, scope: &[u8; 32]) -> Result<(Tx, Found), db::Error> {
    let mut question = "select * from claim_idempotency_key('\\x".to_owned();
    for byte in scope {
        let _ = write!(question, "{byte:02x}");
    }
    let _ = write!(question, "', {lock})");
    let (tx, row) = db.begin_with(&question).await?;
    let found = read(&row.ok_or(sqlx::Error::RowNotFound)?)?;
    Ok((tx, found))
}

fn read(row: &PgRow) -> Result<Found, sqlx::Error> {
    let Some(body_hash) = row.try_get("body_hash")? else {
        return Ok(if row.try_get("locked")? { Found::Nothing } else { Found::Locked });
    };
    let status: i16 = row.try_get("status")?;
    let body: Vec<u8> = row.try_get("body")?;
    let reply = Reply {
        status: StatusCode::from_u16(status as u16).unwrap_or(StatusCode::OK),
        location: row.try_get("location")?,
        etag: row.try_get("etag")?,
        body: Bytes::from(body),
        replayed: true,
    };
    Ok(Found::Finished { body_hash, reply })
}

/// Writes the answer together with the events of the transaction. `false` if the scope has an
/// answer that is still good: another request was faster.
pub(super) async fn insert(tx: &mut Tx, claim: &Claim, reply: &Reply) -> Result<bool, sqlx::Error> {
    let events = std::mem::take(tx.events());
    let context = Context::current();
    let conn: &mut Conn = tx;
    let done = sqlx::query!(
        "with told as (
             insert into events
                 (id, type, subject_id, sequence, customer_id, data, request_id, traceparent)
             select e.id, e.type, e.subject_id, e.sequence, e.customer_id, e.data::jsonb, $7, $8
             from unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[], $5::uuid[], $6::text[])
                 as e (id, type, subject_id, sequence, customer_id, data)
         ), posted as (
             insert into outbox (event_id) select unnest($1::uuid[])
         )
         insert into idempotency_keys as k (scope, body_hash, status, location, etag, body)
         values ($9, $10, $11, $12, $13, $14)
         on conflict (scope) do update
            set body_hash = excluded.body_hash, status = excluded.status,
                location = excluded.location, etag = excluded.etag, body = excluded.body,
                created_at = now()
            where k.created_at <= now() - interval '24 hours'",
        &events.ids,
        &events.kinds as _,
        &events.subject_ids,
        &events.sequences,
        &events.customer_ids as _,
        &events.data,
        context.as_ref().map(|context| context.request_id.as_str()),
        context.as_ref().and_then(|context| context.traceparent.as_deref()),
        &claim.scope[..],
        &claim.body_hash[..],
        reply.status.as_u16() as i16,
        reply.location,
        reply.etag,
        &reply.body[..],
    )
    .execute(conn)
    .await?;
    tx.wrote(events);
    Ok(done.rows_affected() == 1)
}
