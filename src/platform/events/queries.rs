//! Statements on `events`, `outbox` and `unstreamed_events`.

use serde::Serialize;
use uuid::Uuid;

use super::{Emitted, Event, publish::STREAM_LENGTH};
use crate::platform::{
    context::Context,
    db::{Bytea, Conn, Tx},
};

/// The call that writes the events, to be made with COMMIT.
pub(in crate::platform) fn writing(events: &[Emitted]) -> Result<String, sqlx::Error> {
    #[derive(Serialize)]
    struct Document<'a> {
        request_id: Option<&'a str>,
        traceparent: Option<&'a str>,
        events: &'a [Emitted],
    }
    let context = Context::current();
    let context = context.as_deref();
    let document = Document {
        request_id: context.map(|context| context.request_id.as_str()),
        traceparent: context.and_then(|context| context.traceparent.as_deref()),
        events,
    };
    let document =
        serde_json::to_vec(&document).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(format!("write_events({})", Bytea(&document)))
}

/// The trail of one subject from sequence number `after` on, oldest first.
///
/// # Errors
/// The database refused.
pub async fn trail(
    conn: &mut Conn,
    subject_id: Uuid,
    after: i32,
    limit: i64,
) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"select id, type as kind, subject_id, sequence, customer_id, data, request_id,
                  traceparent, created_at
           from events
           where subject_id = $1 and sequence > $2 order by sequence limit $3"#,
        subject_id,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The whole trails of several subjects, each oldest first.
///
/// # Errors
/// The database refused.
pub async fn trails(conn: &mut Conn, subject_ids: &[Uuid]) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"select id, type as kind, subject_id, sequence, customer_id, data, request_id,
                  traceparent, created_at
           from events
           where subject_id = any($1) order by subject_id, sequence"#,
        subject_ids,
    )
    .fetch_all(conn)
    .await
}

/// Takes events out of the outbox, oldest first; what another relay is about to pass on is left
/// to it. They are gone only with the commit.
pub(super) async fn take(tx: &mut Tx, limit: i64) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"with due as (
               delete from outbox where event_id in (
                   select event_id from outbox order by event_id limit $1 for update skip locked
               )
               returning event_id
           )
           select e.id, e.type as kind, e.subject_id, e.sequence, e.customer_id, e.data,
                  e.request_id, e.traceparent, e.created_at
           from due join events e on e.id = due.event_id
           order by e.id"#,
        limit,
    )
    .fetch_all(&mut **tx)
    .await
}

/// Whether there are events that are not in the stream yet. Asked along with BEGIN.
pub(super) const IS_BEHIND: &str = "select exists (select from unstreamed_events)";

/// Notes events that are not in the stream, to be appended later.
pub(super) async fn keep_for_stream(tx: &mut Tx, events: &[Event]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    sqlx::query!(
        "insert into unstreamed_events (event_id) select unnest($1::uuid[]) on conflict do nothing",
        &ids,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes the oldest events that are not in the stream; none while another relay is at it, since
/// two would mix up their order. They are gone only with the commit.
pub(super) async fn take_unstreamed(tx: &mut Tx, limit: i64) -> Result<Vec<Event>, sqlx::Error> {
    sqlx::query_as!(
        Event,
        r#"with turn as materialized (
               select pg_try_advisory_xact_lock('unstreamed_events'::regclass::int, 0) as is_mine
           ), due as (
               delete from unstreamed_events where event_id in (
                   select event_id from unstreamed_events
                   where (select is_mine from turn) order by event_id limit $1
               )
               returning event_id
           )
           select e.id, e.type as kind, e.subject_id, e.sequence, e.customer_id, e.data,
                  e.request_id, e.traceparent, e.created_at
           from due join events e on e.id = due.event_id
           order by e.id"#,
        limit,
    )
    .fetch_all(&mut **tx)
    .await
}

/// How many events are not in the stream. Those are forgotten before which there are more newer ones
/// than it keeps: it would drop them at once.
pub(in crate::platform) async fn unstreamed(conn: &mut Conn) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"with forgotten as (
               delete from unstreamed_events where event_id <= (
                   select event_id from unstreamed_events order by event_id desc offset $1 limit 1
               )
           )
           select least(count(*), $1) as "count!" from unstreamed_events"#,
        STREAM_LENGTH,
    )
    .fetch_one(conn)
    .await
}

/// Events that wait to be passed on, and for how many seconds the oldest of them has.
pub(in crate::platform) async fn pending(conn: &mut Conn) -> Result<(i64, f64), sqlx::Error> {
    let row = sqlx::query!(
        r#"select count(*) as "count!",
                  coalesce(extract(epoch from now() - min(e.created_at)), 0)::float8 as "age!"
           from outbox o join events e on e.id = o.event_id"#,
    )
    .fetch_one(conn)
    .await?;
    Ok((row.count, row.age))
}
