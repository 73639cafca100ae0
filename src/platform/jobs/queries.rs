//! Statements on `jobs`.

use std::time::Duration;

use uuid::Uuid;

use super::NewJob;
use crate::platform::db::Conn;

/// A job that was claimed.
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) queue: String,
    pub(super) kind: String,
    pub(super) args: serde_json::Value,
    pub(super) attempt: i16,
    pub(super) max_attempts: i16,
    pub(super) fence: i32,
    pub(super) request_id: Option<String>,
    pub(super) traceparent: Option<String>,
}

/// How a job is to be after an attempt, as columns: one statement takes those of many.
#[derive(Default)]
pub(super) struct Outcomes {
    pub(super) ids: Vec<Uuid>,
    pub(super) fences: Vec<i32>,
    /// `completed`, `scheduled` or `dead`.
    pub(super) states: Vec<&'static str>,
    /// Seconds until a scheduled one is due.
    pub(super) delays: Vec<f64>,
    /// 1 for an attempt that does not count.
    pub(super) refunds: Vec<i16>,
    pub(super) errors: Vec<Option<String>>,
}

pub(super) async fn insert(conn: &mut Conn, jobs: &[NewJob]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id).collect();
    let queues: Vec<&str> = jobs.iter().map(|job| job.queue).collect();
    let kinds: Vec<&str> = jobs.iter().map(|job| job.kind).collect();
    let args: Vec<&str> = jobs.iter().map(|job| job.args.as_str()).collect();
    let priorities: Vec<i16> = jobs.iter().map(|job| job.priority).collect();
    let max_attempts: Vec<i16> = jobs.iter().map(|job| job.max_attempts).collect();
    let keys: Vec<Option<&str>> = jobs.iter().map(|job| job.unique_key.as_deref()).collect();
    let delays: Vec<f64> = jobs.iter().map(|job| job.delay.as_secs_f64()).collect();
    let requests: Vec<Option<&str>> = jobs.iter().map(|job| job.request_id.as_deref()).collect();
    let traces: Vec<Option<&str>> = jobs.iter().map(|job| job.traceparent.as_deref()).collect();
    sqlx::query!(
        "insert into jobs (id, queue, kind, args, priority, max_attempts, unique_key, run_at,
                           state, request_id, traceparent)
         select id, queue, kind, args::jsonb, priority, max_attempts, unique_key,
                now() + make_interval(secs => delay),
                case when delay > 0 then 'scheduled' else 'available' end,
                request_id, traceparent
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[],
                     $6::smallint[], $7::text[], $8::float8[], $9::text[], $10::text[])
             as j (id, queue, kind, args, priority, max_attempts, unique_key, delay,
                   request_id, traceparent)
         on conflict (kind, unique_key)
             where unique_key is not null and state in ('scheduled', 'available', 'running')
             do nothing",
        &ids,
        &queues as &[&str],
        &kinds as &[&str],
        &args as &[&str],
        &priorities,
        &max_attempts,
        &keys as &[Option<&str>],
        &delays,
        &requests as &[Option<&str>],
        &traces as &[Option<&str>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Begins jobs, of each queue as many as there are slots. What another worker is about to claim
/// is left to it.
pub(super) async fn claim(
    conn: &mut Conn,
    queues: &[&str],
    slots: &[i32],
    lease: Duration,
    worker: &str,
) -> Result<Vec<Claimed>, sqlx::Error> {
    sqlx::query_as!(
        Claimed,
        "with due as materialized (
             select j.id
             from unnest($1::text[], $2::int[]) as q (name, slots)
             cross join lateral (
                 select id from jobs
                 where queue = q.name and state = 'available'
                 order by priority desc, run_at, id
                 limit q.slots
                 for update skip locked
             ) j
             where not exists (select from paused_queues where queue = q.name)
         )
         update jobs set state = 'running', attempt = attempt + 1, fence = fence + 1,
                         worker = $4, started_at = now(),
                         lease_expires_at = now() + make_interval(secs => $3)
         from due
         where jobs.id = due.id
         returning jobs.id, queue, kind, args, attempt, max_attempts, fence, request_id,
                   traceparent",
        queues as &[&str],
        slots,
        lease.as_secs_f64(),
        worker,
    )
    .fetch_all(conn)
    .await
}

/// Makes due what was scheduled, at most `limit` jobs: how many there were.
pub(super) async fn promote(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "update jobs set state = 'available'
         where id in (
             select id from jobs where state = 'scheduled' and run_at <= now()
             order by run_at, id limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Takes jobs back from workers that have not been heard of: how many there were. One that has
/// used up its attempts was perhaps what ended them, and is a dead letter.
pub(super) async fn rescue(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "update jobs set
             state = case when attempt >= max_attempts then 'dead' else 'available' end,
             finished_at = case when attempt >= max_attempts then now() end,
             lease_expires_at = null,
             error = 'worker ' || coalesce(worker, '?') || ' was not heard of any more'
         where id in (
             select id from jobs where state = 'running' and lease_expires_at < now()
             order by lease_expires_at, id limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Records what came of attempts, unless the job was taken over: how many were recorded.
///
/// Rows are locked in no order, which would take a second pass over them: those that run belong to
/// one worker each. Only one that has just lost several of them can meet the next, and then the
/// batch of one of the two fails and is recorded anew.
pub(super) async fn finish(conn: &mut Conn, outcomes: &Outcomes) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "update jobs set
             state = o.state,
             attempt = attempt - o.refund,
             run_at = case when o.state = 'scheduled'
                 then now() + make_interval(secs => o.delay) else run_at end,
             finished_at = case when o.state in ('completed', 'dead') then now() end,
             lease_expires_at = null,
             error = coalesce(o.error, jobs.error)
         from unnest($1::uuid[], $2::int[], $3::text[], $4::float8[], $5::smallint[], $6::text[])
             as o (id, fence, state, delay, refund, error)
         where jobs.id = o.id and jobs.fence = o.fence and jobs.state = 'running'",
        &outcomes.ids,
        &outcomes.fences,
        &outcomes.states as &[&str],
        &outcomes.delays,
        &outcomes.refunds,
        &outcomes.errors as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Renews leases: the jobs that are no longer the worker's. One that a transaction holds at the
/// moment cannot be taken over meanwhile, and is not waited for: its outcomes would wait as well.
/// One that has completed itself is not lost either.
pub(super) async fn renew(
    conn: &mut Conn,
    ids: &[Uuid],
    fences: &[i32],
    lease: Duration,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"with asked as (
               select * from unnest($1::uuid[], $2::int[]) as a (id, fence)
           ), kept as (
               select jobs.id from jobs join asked a on jobs.id = a.id and jobs.fence = a.fence
               where jobs.state = 'running' for no key update of jobs skip locked
           ), renewed as (
               update jobs set lease_expires_at = now() + make_interval(secs => $3)
               from kept where jobs.id = kept.id
           )
           select a.id as "id!" from asked a
           where not exists (
               select from jobs where jobs.id = a.id and jobs.fence = a.fence
                                  and jobs.state in ('running', 'completed')
           )"#,
        ids,
        fences,
        lease.as_secs_f64(),
    )
    .fetch_all(conn)
    .await
}

/// Whether the job is still held under `fence`; locks it until the transaction ends.
pub(super) async fn hold(conn: &mut Conn, id: Uuid, fence: i32) -> Result<bool, sqlx::Error> {
    let row = sqlx::query!(
        r#"select true as "held!" from jobs where id = $1 and fence = $2 and state = 'running'
           for no key update"#,
        id,
        fence,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// Completes the job if it is still held under `fence`: whether it was.
pub(super) async fn complete(conn: &mut Conn, id: Uuid, fence: i32) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update jobs set state = 'completed', finished_at = now(), lease_expires_at = null
         where id = $1 and fence = $2 and state = 'running'",
        id,
        fence,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Jobs that are counted at once, at most: a backlog of millions would take longer to count than
/// a statement may.
pub(super) const COUNT_LIMIT: i64 = 100_000;

/// How many jobs of a queue are in a state, and for how long the first of them could have run.
pub(super) struct Depth {
    pub(super) queue: String,
    pub(super) state: String,
    pub(super) count: i64,
    pub(super) oldest_seconds: f64,
}

/// Of the states that have an index of their own: what is finished is not looked at, nor more than
/// [`COUNT_LIMIT`] jobs of a queue that are available, those that would be begun first, and of all
/// that are in another state.
pub(super) async fn depths(conn: &mut Conn) -> Result<Vec<Depth>, sqlx::Error> {
    sqlx::query_as!(
        Depth,
        r#"with recursive waiting (queue) as (
               (select queue from jobs where state = 'available' order by queue limit 1)
               union all
               select (select queue from jobs
                       where state = 'available' and queue > waiting.queue
                       order by queue limit 1)
               from waiting where waiting.queue is not null
           )
           select queue as "queue!", state as "state!", count(*) as "count!",
                  greatest(coalesce(extract(epoch from now() - min(run_at)), 0), 0)::float8
                      as "oldest_seconds!"
           from (
               select available.* from waiting cross join lateral (
                   select queue, state, run_at from jobs
                   where state = 'available' and jobs.queue = waiting.queue
                   order by priority desc, run_at, id limit $1
               ) available
               union all
               (select queue, state, run_at from jobs where state = 'scheduled'
                order by run_at, id limit $1)
               union all
               (select queue, state, run_at from jobs where state = 'running'
                order by lease_expires_at, id limit $1)
               union all
               (select queue, state, run_at from jobs where state = 'dead'
                order by id desc limit $1)
           ) as unfinished
           group by queue, state"#,
        COUNT_LIMIT,
    )
    .fetch_all(conn)
    .await
}
