//! The statements behind idempotency keys.

use bytes::Bytes;
use http::StatusCode;
use sqlx::{Row, postgres::PgRow};

use super::{Claim, Reply};
use crate::platform::db::{self, Bytea, Db, Tx};

/// The constraint by which the first answer wins.
pub(super) const KEY: &str = "idempotency_keys_pkey";

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
    let question = format!("select * from claim_idempotency_key({}, {lock})", Bytea(scope));
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

/// The call that keeps the answer, to be made with COMMIT. It violates [`KEY`] if the scope has an
/// answer that is still good: another request was faster.
pub(super) fn keeping(claim: &Claim, reply: &Reply) -> String {
    let text = |text: &Option<String>| {
        let text = text.as_ref().map(|text| Bytea(text.as_bytes()));
        text.map_or("null".to_owned(), |text| format!("convert_from({text}, 'UTF8')"))
    };
    format!(
        "keep_answer({}, {}, {}::smallint, {}, {}, {})",
        Bytea(&claim.scope),
        Bytea(&claim.body_hash),
        reply.status.as_u16(),
        text(&reply.location),
        text(&reply.etag),
        Bytea(&reply.body),
    )
}
