//! Statements on `schedule_ticks`.

use super::Begun;
use crate::platform::db::Conn;

/// Whether the newest tick of any schedule was not begun yet. `periods` are seconds.
pub(super) async fn is_any_due(
    conn: &mut Conn,
    names: &[&str],
    periods: &[f64],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from unnest($1::text[], $2::float8[]) as s (name, period)
               where not exists (
                   select from schedule_ticks t
                   where t.schedule = s.name
                     and t.tick = date_bin(make_interval(secs => s.period), now(), 'epoch')
               )
           ) as "is_due!""#,
        names as &[&str],
        periods,
    )
    .fetch_one(conn)
    .await
}

/// Begins the newest tick of each schedule, unless somebody else has.
pub(super) async fn insert_ticks(
    conn: &mut Conn,
    names: &[&str],
    periods: &[f64],
) -> Result<Vec<Begun>, sqlx::Error> {
    sqlx::query_as!(
        Begun,
        r#"with newest as (
               select s.name, s.period,
                      date_bin(make_interval(secs => s.period), now(), 'epoch') as tick
               from unnest($1::text[], $2::float8[]) as s (name, period)
           ), begun as (
               insert into schedule_ticks (schedule, tick)
               select name, tick from newest order by name
               on conflict do nothing
               returning schedule, tick
           )
           select b.schedule,
                  coalesce(round(extract(epoch from b.tick - before.tick) / n.period) - 1, 0)::bigint
                      as "missed!"
           from begun b
           join newest n on n.name = b.schedule
           left join lateral (
               select max(t.tick) as tick from schedule_ticks t
               where t.schedule = b.schedule and t.tick < b.tick
           ) before on true"#,
        names as &[&str],
        periods,
    )
    .fetch_all(conn)
    .await
}
