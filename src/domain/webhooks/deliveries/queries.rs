//! Statements on `webhook_deliveries`, and on their endpoints where those change with them.

use uuid::Uuid;

use super::super::model::{Delivery, State};
use crate::platform::{
    db::Conn,
    events::Event,
    webhooks::{Delivered, Due},
};

/// Those of the events that an endpoint asks for.
pub(super) async fn find_asked_for(
    conn: &mut Conn,
    ids: &[Uuid],
) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"select id, type as kind, subject_id, sequence, customer_id, data, request_id,
                  traceparent, created_at
           from events v
           where id = any($1) and exists (
               select from webhook_endpoints e
               where e.disabled_at is null
                 and e.events && array['*', split_part(v.type, '.', 1) || '.*', v.type]
           )"#,
        ids,
    )
    .fetch_all(conn)
    .await
}

/// A delivery that was not there before.
pub(super) struct Inserted {
    pub(super) id: Uuid,
    pub(super) endpoint_id: Uuid,
    pub(super) event_id: Uuid,
}

/// One delivery of each event for each endpoint that asks for it. Those there are already are
/// left. In an order, so that two who insert the same do not wait for each other in a circle.
pub(super) async fn fan_out(
    conn: &mut Conn,
    events: &[Event],
    bodies: &[String],
) -> Result<Vec<Inserted>, sqlx::Error> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let types: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    sqlx::query_as!(
        Inserted,
        "insert into webhook_deliveries (id, endpoint_id, event_id, event_type, body)
         select gen_random_uuid(), e.id, t.id, t.type, t.body
         from unnest($1::uuid[], $2::text[], $3::text[]) as t (id, type, body)
         join webhook_endpoints e on e.disabled_at is null
             and e.events && array['*', split_part(t.type, '.', 1) || '.*', t.type]
         order by e.id, t.id
         on conflict (endpoint_id, event_id) do nothing
         returning id, endpoint_id, event_id",
        &ids,
        &types as &[&str],
        bodies,
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

/// What attempts need, in the order of `wanted`. `None` where there is nothing left to do in the
/// round.
pub(super) async fn find_due(
    conn: &mut Conn,
    wanted: &[(Uuid, i32)],
) -> Result<Vec<Option<Due>>, sqlx::Error> {
    let (ids, rounds): (Vec<Uuid>, Vec<i32>) = wanted.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"select w.place as "place!", d.body, d.attempts,
                  greatest(extract(epoch from d.next_attempt_at - now()), 0)::float8 as "wait!",
                  e.url, e.secret,
                  case when e.previous_secret_expires_at > now() then e.previous_secret end
                      as previous_secret,
                  e.disabled_at is not null as "is_disabled!"
           from unnest($1::uuid[], $2::int[]) with ordinality as w (id, round, place)
           join webhook_deliveries d
               on d.id = w.id and d.round = w.round and d.state = 'pending'
           join webhook_endpoints e on e.id = d.endpoint_id"#,
        &ids,
        &rounds,
    )
    .fetch_all(conn)
    .await?;
    let mut found: Vec<Option<Due>> = wanted.iter().map(|_| None).collect();
    for row in rows {
        let place = usize::try_from(row.place - 1).ok().and_then(|place| found.get_mut(place));
        if let Some(place) = place {
            *place = Some(Due {
                body: row.body,
                attempts: row.attempts,
                wait: row.wait,
                url: row.url,
                secret: row.secret,
                previous_secret: row.previous_secret,
                is_disabled: row.is_disabled,
            });
        }
    }
    Ok(found)
}

/// Records that receivers have them, also if another worker recorded a failure meanwhile.
///
/// Two workers may have made the same attempts, in other orders. So that they do not wait for each
/// other in a circle, everybody locks deliveries by their ids, and endpoints by theirs once no other
/// delivery is to be locked: `array` has all of `recorded` before it is looked at.
pub(super) async fn record_delivered(
    conn: &mut Conn,
    delivered: &[Delivered],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = delivered.iter().map(|one| one.id).collect();
    let rounds: Vec<i32> = delivered.iter().map(|one| one.round).collect();
    let statuses: Vec<i16> = delivered.iter().map(|one| one.status).collect();
    sqlx::query!(
        "with locked as materialized (
             select d.id, o.status
             from unnest($1::uuid[], $2::int[], $3::smallint[]) as o (id, round, status)
             join webhook_deliveries d
                 on d.id = o.id and d.round = o.round and d.state = 'pending'
             order by d.id for no key update of d
         ), recorded as (
             update webhook_deliveries d
             set state = 'delivered', attempts = attempts + 1, response_status = locked.status,
                 error = null, last_attempt_at = now(), next_attempt_at = null
             from locked where d.id = locked.id
             returning d.endpoint_id
         ), well as (
             select id from webhook_endpoints
             where failing_since is not null
               and id = any(array(select endpoint_id from recorded))
             order by id for no key update
         )
         update webhook_endpoints e set failing_since = null, version = version + 1
         from well where e.id = well.id",
        &ids,
        &rounds,
        &statuses,
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
/// succeeded for 5 days. The delivery is locked first, and then its endpoint, as by everybody.
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

/// Deletes what was ended more than 30 days ago, at most `limit`: how many there were. What is about
/// to be delivered again is locked, and left.
pub(super) async fn purge(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from webhook_deliveries where id in (
             select id from webhook_deliveries
             where created_at < now() - interval '30 days' and state <> 'pending'
             limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
