//! Statements on `webhook_deliveries`, and on their endpoints where those change with them.

use uuid::Uuid;

use super::super::model::{Delivery, State};
use crate::platform::db::Conn;

/// Whether any endpoint asks for events that match one of `filters`.
pub(super) async fn is_asked_for(conn: &mut Conn, filters: &[String]) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from webhook_endpoints where disabled_at is null and events && $1
           ) as "is_asked_for!""#,
        filters,
    )
    .fetch_one(conn)
    .await
}

/// A delivery that was not there before.
pub(super) struct Inserted {
    pub(super) id: Uuid,
    pub(super) endpoint_id: Uuid,
}

/// One delivery for each endpoint that asks for the event. Those there are already are left.
pub(super) async fn fan_out(
    conn: &mut Conn,
    event_id: Uuid,
    event_type: &str,
    filters: &[String],
    body: &str,
) -> Result<Vec<Inserted>, sqlx::Error> {
    sqlx::query_as!(
        Inserted,
        "insert into webhook_deliveries (id, endpoint_id, event_id, event_type, body)
         select gen_random_uuid(), id, $1, $2, $4 from webhook_endpoints
         where disabled_at is null and events && $3
         on conflict (endpoint_id, event_id) do nothing
         returning id, endpoint_id",
        event_id,
        event_type,
        filters,
        body,
    )
    .fetch_all(conn)
    .await
}

/// A delivery of no event.
pub(in crate::domain::webhooks) async fn insert_test(
    conn: &mut Conn,
    endpoint_id: Uuid,
    event_type: &str,
    body: &str,
) -> Result<Delivery, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        r#"insert into webhook_deliveries (id, endpoint_id, event_id, event_type, body)
           values (gen_random_uuid(), $1, $2, $3, $4)
           returning id, event_id, event_type, state as "state: State", attempts,
                     response_status, error, last_attempt_at, next_attempt_at, created_at"#,
        endpoint_id,
        Uuid::now_v7(),
        event_type,
        body,
    )
    .fetch_one(conn)
    .await
}

/// Begins to deliver anew. The job of the round before finds nothing to do.
pub(in crate::domain::webhooks) async fn begin_round(
    conn: &mut Conn,
    endpoint_id: Uuid,
    id: Uuid,
) -> Result<Option<(Delivery, i32)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"update webhook_deliveries
           set state = 'pending', round = round + 1, attempts = 0, next_attempt_at = now()
           where id = $1 and endpoint_id = $2
           returning id, event_id, event_type, state as "state: State", attempts,
                     response_status, error, last_attempt_at, next_attempt_at, created_at, round"#,
        id,
        endpoint_id,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let delivery = Delivery {
            id: row.id,
            event_id: row.event_id,
            event_type: row.event_type,
            state: row.state,
            attempts: row.attempts,
            response_status: row.response_status,
            error: row.error,
            last_attempt_at: row.last_attempt_at,
            next_attempt_at: row.next_attempt_at,
            created_at: row.created_at,
        };
        (delivery, row.round)
    }))
}

/// Newest event first, from behind `before`.
pub(in crate::domain::webhooks) async fn list_page(
    conn: &mut Conn,
    endpoint_id: Uuid,
    state: Option<State>,
    before: Uuid,
    limit: i64,
) -> Result<Vec<Delivery>, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        r#"select id, event_id, event_type, state as "state: State", attempts, response_status,
                  error, last_attempt_at, next_attempt_at, created_at
           from webhook_deliveries
           where endpoint_id = $1 and event_id < $2 and ($3::text is null or state = $3)
           order by event_id desc limit $4"#,
        endpoint_id,
        before,
        state as _,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// What an attempt needs.
pub(super) struct Due {
    pub(super) body: String,
    pub(super) attempts: i16,
    /// Seconds until it may be made.
    pub(super) wait: f64,
    pub(super) url: String,
    pub(super) secret: Vec<u8>,
    pub(super) previous_secret: Option<Vec<u8>>,
    pub(super) is_disabled: bool,
}

/// `None` if there is nothing left to do in this round.
pub(super) async fn find_due(
    conn: &mut Conn,
    id: Uuid,
    round: i32,
) -> Result<Option<Due>, sqlx::Error> {
    sqlx::query_as!(
        Due,
        r#"select d.body, d.attempts,
                  greatest(extract(epoch from d.next_attempt_at - now()), 0)::float8 as "wait!",
                  e.url, e.secret,
                  case when e.previous_secret_expires_at > now() then e.previous_secret end
                      as previous_secret,
                  e.disabled_at is not null as "is_disabled!"
           from webhook_deliveries d join webhook_endpoints e on e.id = d.endpoint_id
           where d.id = $1 and d.round = $2 and d.state = 'pending'"#,
        id,
        round,
    )
    .fetch_optional(conn)
    .await
}

/// Records that the receiver has it, also if another worker recorded a failure meanwhile.
pub(super) async fn record_delivered(
    conn: &mut Conn,
    id: Uuid,
    round: i32,
    status: i16,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with recorded as (
             update webhook_deliveries
             set state = 'delivered', attempts = attempts + 1, response_status = $3, error = null,
                 last_attempt_at = now(), next_attempt_at = null
             where id = $1 and round = $2 and state = 'pending'
             returning endpoint_id
         )
         update webhook_endpoints e set failing_since = null, version = version + 1
         from recorded r where e.id = r.endpoint_id and e.failing_since is not null",
        id,
        round,
        status,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// An attempt that failed.
pub(super) struct FailedAttempt<'a> {
    pub(super) id: Uuid,
    pub(super) round: i32,
    /// Attempts there were before.
    pub(super) attempts: i16,
    pub(super) status: Option<i16>,
    pub(super) error: &'a str,
    /// Seconds until the next; `None` if there is to be none.
    pub(super) wait: Option<f64>,
    /// The receiver wants no more of them.
    pub(super) is_gone: bool,
}

/// What recording it has led to.
pub(super) struct Recorded {
    /// Not if another worker has recorded this attempt.
    pub(super) is_recorded: bool,
    /// Why the endpoint is disabled from now on.
    pub(super) disabled: Option<String>,
}

/// Records a failure, and disables an endpoint that wants no more, or for which nothing has
/// succeeded for 5 days.
pub(super) async fn record_failure(
    conn: &mut Conn,
    attempt: &FailedAttempt<'_>,
) -> Result<Recorded, sqlx::Error> {
    sqlx::query_as!(
        Recorded,
        r#"with recorded as (
               update webhook_deliveries
               set state = case when $6::float8 is null then 'failed' else 'pending' end,
                   attempts = attempts + 1, response_status = $4, error = $5,
                   last_attempt_at = now(), next_attempt_at = now() + make_interval(secs => $6)
               where id = $1 and round = $2 and attempts = $3 and state = 'pending'
               returning endpoint_id
           ), failing as (
               update webhook_endpoints e
               set failing_since = coalesce(failing_since, now()),
                   disabled_at = case when $7::bool or failing_since < now() - interval '5 days'
                       then now() end,
                   disabled_reason = case when $7 then 'gone'
                       when failing_since < now() - interval '5 days' then 'failing' end,
                   version = version + 1
               from recorded r
               where e.id = r.endpoint_id and e.disabled_at is null
                 and ($7 or e.failing_since is null
                      or e.failing_since < now() - interval '5 days')
               returning e.disabled_reason
           )
           select exists (select from recorded) as "is_recorded!",
                  (select disabled_reason from failing) as disabled"#,
        attempt.id,
        attempt.round,
        attempt.attempts,
        attempt.status,
        attempt.error,
        attempt.wait,
        attempt.is_gone,
    )
    .fetch_one(conn)
    .await
}

/// Deletes what was ended more than 30 days ago, at most `limit`: how many there were.
pub(super) async fn purge(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from webhook_deliveries where id in (
             select id from webhook_deliveries
             where created_at < now() - interval '30 days' and state <> 'pending' limit $1
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
