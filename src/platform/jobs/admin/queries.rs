//! Statements on `jobs` and `paused_queues` of those who look after them.

use uuid::Uuid;

use super::{Dead, StoredJob};
use crate::platform::db::Conn;

pub(super) async fn find(conn: &mut Conn, id: Uuid) -> Result<Option<StoredJob>, sqlx::Error> {
    sqlx::query_as!(
        StoredJob,
        "select id, queue, kind, state, args, priority, attempt, max_attempts, unique_key, run_at,
                worker, lease_expires_at, started_at, finished_at, error, request_id, created_at
         from jobs where id = $1",
        id,
    )
    .fetch_optional(conn)
    .await
}

/// Like [`find`], with the row locked until the transaction ends.
pub(super) async fn find_for_update(
    conn: &mut Conn,
    id: Uuid,
) -> Result<Option<StoredJob>, sqlx::Error> {
    sqlx::query_as!(
        StoredJob,
        "select id, queue, kind, state, args, priority, attempt, max_attempts, unique_key, run_at,
                worker, lease_expires_at, started_at, finished_at, error, request_id, created_at
         from jobs where id = $1 for no key update",
        id,
    )
    .fetch_optional(conn)
    .await
}

/// Dead letters, those that were enqueued last first, from behind `before`.
pub(super) async fn list_dead(
    conn: &mut Conn,
    queue: Option<&str>,
    before: Uuid,
    limit: i64,
) -> Result<Vec<StoredJob>, sqlx::Error> {
    sqlx::query_as!(
        StoredJob,
        "select id, queue, kind, state, args, priority, attempt, max_attempts, unique_key, run_at,
                worker, lease_expires_at, started_at, finished_at, error, request_id, created_at
         from jobs where state = 'dead' and id < $1 and ($2::text is null or queue = $2)
         order by id desc limit $3",
        before,
        queue,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Due now, with all its attempts before it. The error of the last one stays until there is
/// another.
pub(super) async fn revive(conn: &mut Conn, id: Uuid) -> Result<StoredJob, sqlx::Error> {
    sqlx::query_as!(
        StoredJob,
        "update jobs set state = 'available', attempt = 0, run_at = now(), finished_at = null
         where id = $1
         returning id, queue, kind, state, args, priority, attempt, max_attempts, unique_key,
                   run_at, worker, lease_expires_at, started_at, finished_at, error, request_id,
                   created_at",
        id,
    )
    .fetch_one(conn)
    .await
}

/// Makes dead letters due, at most `limit`: how many there were to choose from, and how many of
/// them are. One whose like is unfinished stays dead, and so do all but one of those alike.
pub(super) async fn revive_dead(
    conn: &mut Conn,
    Dead { queue, kind }: Dead<'_>,
    limit: i64,
) -> Result<(i64, i64), sqlx::Error> {
    let row = sqlx::query!(
        r#"with found as materialized (
               select id, kind, unique_key from jobs
               where state = 'dead' and ($1::text is null or queue = $1)
                 and ($2::text is null or kind = $2)
                 and not exists (
                     select from jobs other
                     where other.kind = jobs.kind and other.unique_key = jobs.unique_key
                       and other.unique_key is not null
                       and other.state in ('scheduled', 'available', 'running')
                 )
               order by id limit $3 for no key update skip locked
           ), revived as (
               update jobs set state = 'available', attempt = 0, run_at = now(), finished_at = null
               where id in (
                   select distinct on (kind, coalesce(unique_key, id::text)) id from found
                   order by kind, coalesce(unique_key, id::text), id
               )
               returning 1
           )
           select (select count(*) from found) as "found!",
                  (select count(*) from revived) as "revived!""#,
        queue,
        kind,
        limit,
    )
    .fetch_one(conn)
    .await?;
    Ok((row.found, row.revived))
}

pub(super) async fn discard(conn: &mut Conn, id: Uuid) -> Result<StoredJob, sqlx::Error> {
    sqlx::query_as!(
        StoredJob,
        "update jobs set state = 'discarded', finished_at = now()
         where id = $1
         returning id, queue, kind, state, args, priority, attempt, max_attempts, unique_key,
                   run_at, worker, lease_expires_at, started_at, finished_at, error, request_id,
                   created_at",
        id,
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn paused(conn: &mut Conn) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!("select queue from paused_queues").fetch_all(conn).await
}

pub(super) async fn pause(conn: &mut Conn, queue: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("insert into paused_queues (queue) values ($1) on conflict do nothing", queue)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn resume(conn: &mut Conn, queue: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from paused_queues where queue = $1", queue).execute(conn).await?;
    Ok(())
}
