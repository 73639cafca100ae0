//! Statements on `webhook_deliveries`, and on their endpoints where those change with them.

use uuid::Uuid;

use super::super::model::{Delivery, State};
use crate::platform::{
    db::Conn,
    events::Event,
    webhooks::{Delivered, Due, Failed, Recorded},
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

/// How many endpoints there are to ask for an event.
pub(super) async fn count_enabled(conn: &mut Conn) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_endpoints where disabled_at is null"#,
    )
    .fetch_one(conn)
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
    // One statement per filter: the failed have an index of their own, whose condition has to stand
    // in the text, and else thirty days would be read to find none.
    macro_rules! page {
        ($filter:literal $(, $argument:expr)*) => {
            sqlx::query_as!(
                Delivery,
                r#"select id, event_id, event_type, state as "state: State", attempts,
                          response_status, error, last_attempt_at, next_attempt_at, created_at
                   from webhook_deliveries
                   where endpoint_id = $1 and event_id < $2"# + $filter + r#"
                   order by event_id desc limit $3"#,
                endpoint_id,
                before,
                limit $(, $argument)*
            )
            .fetch_all(conn)
            .await
        };
    }
    match state {
        None => page!(""),
        Some(State::Failed) => page!(" and error is not null and state = 'failed'"),
        Some(state) => page!(" and state = $4", state as _),
    }
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
                  case when e.id is null then 'the webhook was deleted'
                       when e.disabled_at is not null then 'the webhook is disabled' end as ended,
                  e.url as "url?", e.secret as "secret?",
                  case when e.previous_secret_expires_at > now() then e.previous_secret end
                      as previous_secret
           from unnest($1::uuid[], $2::int[]) with ordinality as w (id, round, place)
           join webhook_deliveries d
               on d.id = w.id and d.round = w.round and d.state = 'pending'
           left join webhook_endpoints e on e.id = d.endpoint_id"#,
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
                ended: row.ended,
                url: row.url.unwrap_or_default(),
                secret: row.secret.unwrap_or_default(),
                previous_secret: row.previous_secret,
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

/// Records failures, and disables endpoints that want no more, or for which nothing has succeeded
/// for 5 days. What came of each, in the order of `failed`. Locks as [`record_delivered`] does.
pub(super) async fn record_failed(
    conn: &mut Conn,
    failed: &[Failed],
) -> Result<Vec<Recorded>, sqlx::Error> {
    let ids: Vec<Uuid> = failed.iter().map(|one| one.id).collect();
    let rounds: Vec<i32> = failed.iter().map(|one| one.round).collect();
    let attempts: Vec<i16> = failed.iter().map(|one| one.attempts).collect();
    let statuses: Vec<Option<i16>> = failed.iter().map(|one| one.status).collect();
    let errors: Vec<&str> = failed.iter().map(|one| one.error.as_str()).collect();
    let waits: Vec<Option<f64>> = failed.iter().map(|one| one.wait).collect();
    let gone: Vec<bool> = failed.iter().map(|one| one.is_gone).collect();
    let rows = sqlx::query!(
        r#"with locked as materialized (
               select d.id, o.place, o.status, o.error, o.wait, o.is_gone
               from unnest($1::uuid[], $2::int[], $3::smallint[], $4::smallint[], $5::text[],
                           $6::float8[], $7::bool[]) with ordinality
                   as o (id, round, attempts, status, error, wait, is_gone, place)
               join webhook_deliveries d
                   on d.id = o.id and d.round = o.round and d.attempts = o.attempts
                   and d.state = 'pending'
               order by d.id for no key update of d
           ), recorded as (
               update webhook_deliveries d
               set state = case when l.wait is null then 'failed' else 'pending' end,
                   attempts = attempts + 1, response_status = l.status, error = l.error,
                   last_attempt_at = now(), next_attempt_at = now() + make_interval(secs => l.wait)
               from locked l where d.id = l.id
               returning d.endpoint_id, l.place, l.is_gone
           ), of_endpoints as materialized (
               select endpoint_id, min(place) as place, bool_or(is_gone) as is_gone
               from recorded group by endpoint_id
           ), failing as materialized (
               select e.id, o.place, o.is_gone
               from of_endpoints o join webhook_endpoints e on e.id = o.endpoint_id
               where e.disabled_at is null
                 and (o.is_gone or e.failing_since is null
                      or e.failing_since < now() - interval '5 days')
               order by e.id for no key update of e
           ), told as (
               update webhook_endpoints e
               set failing_since = coalesce(failing_since, now()),
                   disabled_at = case when f.is_gone or failing_since < now() - interval '5 days'
                       then now() end,
                   disabled_reason = case when f.is_gone then 'gone'
                       when failing_since < now() - interval '5 days' then 'failing' end,
                   version = version + 1
               from failing f where e.id = f.id
               returning f.place, e.disabled_reason
           )
           select r.place as "place!", t.disabled_reason as "disabled?"
           from recorded r left join told t on t.place = r.place"#,
        &ids,
        &rounds,
        &attempts,
        &statuses as &[Option<i16>],
        &errors as &[&str],
        &waits as &[Option<f64>],
        &gone,
    )
    .fetch_all(conn)
    .await?;
    let mut recorded: Vec<Recorded> = failed.iter().map(|_| Recorded::default()).collect();
    for row in rows {
        let place = usize::try_from(row.place - 1).ok().and_then(|place| recorded.get_mut(place));
        if let Some(place) = place {
            *place = Recorded { is_recorded: true, disabled: row.disabled };
        }
    }
    Ok(recorded)
}

/// Deletes what was ended more than 30 days ago, and what has waited in vain for as long, at most
/// `limit`: how many there were. What is about to be delivered again is locked, and left.
pub(super) async fn purge(conn: &mut Conn, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from webhook_deliveries where id in (
             select id from webhook_deliveries
             where created_at < now() - interval '30 days'
               -- One that is to be delivered again is due at a time of now; the other's job is lost.
               and (state <> 'pending' or next_attempt_at < now() - interval '30 days')
             limit $1 for update skip locked
         )",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
