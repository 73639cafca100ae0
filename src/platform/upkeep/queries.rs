//! Statements that keep the tables in order. Each removes a batch and is a transaction of its own,
//! so that nobody waits for it; what somebody else has locked is left to the next time.

use std::time::Duration;

use crate::platform::db::{Conn, Tx};

/// Answers to idempotency keys are good for 24 hours.
pub(super) async fn idempotency_keys(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from idempotency_keys where scope in (
             select scope from idempotency_keys where created_at <= now() - interval '24 hours'
             limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Dead letters are not among them: they wait for a person.
pub(super) async fn finished_jobs(
    conn: &mut Conn,
    retention: Duration,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from jobs where id in (
             select id from jobs
             where state in ('completed', 'discarded')
               and finished_at < now() - make_interval(secs => $1)
             order by finished_at limit $2 for update skip locked
         )",
        retention.as_secs_f64(),
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// The newest tick of each schedule stays, however old: what was missed is counted from it.
pub(super) async fn schedule_ticks(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from schedule_ticks where (schedule, tick) in (
             select t.schedule, t.tick from schedule_ticks t
             where t.begun_at < now() - interval '7 days'
               and exists (select from schedule_ticks newer
                           where newer.schedule = t.schedule and newer.tick > t.tick)
             limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// The tokens of sessions that are over. One that is used all day has thousands, which would go
/// with the session by one statement, however long that takes.
pub(super) async fn tokens_of_ended(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from refresh_tokens where token_hash in (
             select t.token_hash from sessions s join refresh_tokens t on t.session_id = s.id
             where s.expires_at < now() or s.revoked_at < now() - interval '1 day'
             limit $1 for update of t skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Those that are over and have no tokens left. A revoked one is kept for a day, for whoever looks
/// into why.
pub(super) async fn sessions(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from sessions where id in (
             select id from sessions s
             where (expires_at < now() or revoked_at < now() - interval '1 day')
               and not exists (select from refresh_tokens t where t.session_id = s.id)
             limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Those that are too old to be traded in. Coming back, such a one is unknown, which is refused
/// as well.
pub(super) async fn refresh_tokens(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from refresh_tokens where token_hash in (
             select token_hash from refresh_tokens where expires_at < now() - interval '1 day'
             limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Tables that are partitioned by month.
pub(super) async fn partitioned_tables(conn: &mut Conn) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select c.relname::text as "name!" from pg_class c
           where c.relkind = 'p' and c.relnamespace = 'public'::regnamespace order by 1"#,
    )
    .fetch_all(conn)
    .await
}

pub(super) async fn create_months(
    conn: &mut Conn,
    table: &str,
    ahead: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select create_month_partitions($1, $2)::text", table, ahead)
        .fetch_one(conn)
        .await?;
    Ok(())
}

/// The names of the partitions that were detached.
pub(super) async fn detach_months(
    conn: &mut Conn,
    table: &str,
    kept: i32,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(r#"select detach_month_partitions($1, $2) as "name!""#, table, kept,)
        .fetch_all(conn)
        .await
}

/// Takes longer than a request may: the role's time-out is lifted for this transaction.
pub(super) async fn analyze(tx: &mut Tx, table: &str, limit: Duration) -> Result<(), sqlx::Error> {
    let limit = limit.as_millis().to_string();
    sqlx::query_scalar!("select set_config('statement_timeout', $1, true)", limit)
        .fetch_one(&mut **tx)
        .await?;
    sqlx::query_scalar!(r#"select refresh_statistics($1)::text"#, table)
        .fetch_one(&mut **tx)
        .await?;
    Ok(())
}

/// Rows of each default partition, by the table that it is of, counted up to 1,000.
pub(in crate::platform) async fn default_rows(
    conn: &mut Conn,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select parent as "parent!", row_count as "row_count!" from rows_in_default_partitions()"#,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.parent, row.row_count)).collect())
}
