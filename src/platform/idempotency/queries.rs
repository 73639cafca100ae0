//! The statements behind idempotency keys.

use http::StatusCode;

use super::Reply;
use crate::platform::db::Conn;

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

/// Takes the lock and looks for an answer, in one statement. Its snapshot may be older than the
/// lock: an answer that was committed in between is not seen, and `insert` then fails on the key.
pub(super) async fn lock_and_find(
    conn: &mut Conn,
    lock: i64,
    scope: &[u8],
) -> Result<Found, sqlx::Error> {
    let row = sqlx::query!(
        r#"select l.locked as "locked!", k.body_hash as "body_hash?", k.status as "status?",
                  k.location, k.etag, k.body as "body?"
           from (select pg_try_advisory_xact_lock($1) as locked) l
           left join idempotency_keys k
               on k.scope = $2 and k.created_at > now() - interval '24 hours'"#,
        lock,
        scope,
    )
    .fetch_one(conn)
    .await?;
    Ok(match (row.body_hash, row.status, row.body) {
        (Some(body_hash), Some(status), Some(body)) => Found::Finished {
            body_hash,
            reply: Reply {
                status: StatusCode::from_u16(status as u16).unwrap_or(StatusCode::OK),
                location: row.location,
                etag: row.etag,
                body: body.into(),
                replayed: true,
            },
        },
        _ if row.locked => Found::Nothing,
        _ => Found::Locked,
    })
}

/// `false` if the scope has an answer that is still good: another request was faster.
pub(super) async fn insert(
    conn: &mut Conn,
    scope: &[u8],
    body_hash: &[u8],
    reply: &Reply,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into idempotency_keys as k (scope, body_hash, status, location, etag, body)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (scope) do update
            set body_hash = excluded.body_hash, status = excluded.status,
                location = excluded.location, etag = excluded.etag, body = excluded.body,
                created_at = now()
            where k.created_at <= now() - interval '24 hours'",
        scope,
        body_hash,
        reply.status.as_u16() as i16,
        reply.location,
        reply.etag,
        &reply.body[..],
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
