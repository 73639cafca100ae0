//! The statements behind sessions.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Origin;
use crate::platform::db::{Conn, Lsn};

/// A live session, as its owner sees it.
#[derive(Debug)]
pub struct Session {
    pub id: Uuid,
    pub user_agent: String,
    pub ip: String,
    pub created_at: OffsetDateTime,
    pub last_seen_at: OffsetDateTime,
}

pub(super) async fn insert(
    conn: &mut Conn,
    id: Uuid,
    user_id: Uuid,
    origin: &Origin,
    lifetime: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into sessions (id, user_id, user_agent, ip, expires_at)
         values ($1, $2, $3, ($4::text)::inet, now() + $5::interval)",
        id,
        user_id,
        origin.user_agent,
        origin.ip.to_string(),
        interval(lifetime),
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn insert_token(
    conn: &mut Conn,
    session_id: Uuid,
    hash: &[u8],
    idle_lifetime: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into refresh_tokens (token_hash, session_id, expires_at)
         values ($1, $2, now() + $3::interval)",
        hash,
        session_id,
        interval(idle_lifetime),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks a token as used, if it may be: the row lock lets one of two concurrent trades win.
pub(super) async fn spend_token(
    conn: &mut Conn,
    hash: &[u8],
) -> Result<Option<(Uuid, Uuid)>, sqlx::Error> {
    let spent = sqlx::query!(
        "update refresh_tokens t set used_at = now()
         from sessions s
         where t.token_hash = $1 and t.used_at is null and t.expires_at > now()
           and s.id = t.session_id and s.revoked_at is null and s.expires_at > now()
         returning s.id, s.user_id",
        hash,
    )
    .fetch_optional(conn)
    .await?;
    Ok(spent.map(|row| (row.id, row.user_id)))
}

pub(super) async fn find_spent_token(
    conn: &mut Conn,
    hash: &[u8],
) -> Result<Option<(Uuid, Uuid)>, sqlx::Error> {
    let row = sqlx::query!(
        "select s.id, s.user_id from refresh_tokens t join sessions s on s.id = t.session_id
         where t.token_hash = $1 and t.used_at is not null",
        hash,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.id, row.user_id)))
}

pub(super) async fn touch(conn: &mut Conn, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("update sessions set last_seen_at = now() where id = $1", id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether the session is live, and up to where the log was written by then.
pub(super) async fn is_live(conn: &mut Conn, id: Uuid) -> Result<(bool, Lsn), sqlx::Error> {
    let row = sqlx::query!(
        r#"select (pg_current_wal_flush_lsn() - '0/0')::bigint as "lsn!",
                  exists (select 1 from sessions
                          where id = $1 and revoked_at is null and expires_at > now()) as "live!""#,
        id,
    )
    .fetch_one(conn)
    .await?;
    Ok((row.live, Lsn(row.lsn as u64)))
}

/// Whether the session is live, as the server that is asked knows.
pub(super) async fn is_live_here(conn: &mut Conn, id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select 1 from sessions where id = $1 and revoked_at is null
                          and expires_at > now()) as "live!""#,
        id,
    )
    .fetch_one(conn)
    .await
}

/// Those of the sessions that are live, as the server that is asked knows.
pub(super) async fn live_among(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from sessions
         where id = any($1) and revoked_at is null and expires_at > now()",
        ids,
    )
    .fetch_all(conn)
    .await
}

pub(super) async fn list(conn: &mut Conn, user_id: Uuid) -> Result<Vec<Session>, sqlx::Error> {
    sqlx::query_as!(
        Session,
        r#"select id, user_agent, host(ip) as "ip!", created_at, last_seen_at from sessions
           where user_id = $1 and revoked_at is null and expires_at > now()
           order by id desc limit 100"#,
        user_id,
    )
    .fetch_all(conn)
    .await
}

pub(super) async fn revoke(conn: &mut Conn, user_id: Uuid, id: Uuid) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update sessions set revoked_at = now()
         where id = $1 and user_id = $2 and revoked_at is null and expires_at > now()",
        id,
        user_id,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn revoke_all(
    conn: &mut Conn,
    user_id: Uuid,
    except: Option<Uuid>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "update sessions set revoked_at = now()
         where user_id = $1 and revoked_at is null and id is distinct from $2
         returning id",
        user_id,
        except,
    )
    .fetch_all(conn)
    .await
}

/// Durations here are whole microseconds of any length; `PgInterval` refuses only what has
/// nanoseconds.
fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}
