//! Statements on the read model of sales.

use time::Date;
use uuid::Uuid;

use super::model::{DailySales, ProductSales, Range};
use crate::platform::db::Conn;

/// Adds what these events did to the sales, those that are not in yet: how many seconds ago the
/// oldest of these happened, if there is any.
pub(super) async fn add(conn: &mut Conn, event_ids: &[Uuid]) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"with due as materialized (
               select * from sales_of_events where event_id = any($1)
           ), fresh as (
               insert into reported_events (order_id, sequence)
               select order_id, sequence from due order by order_id, sequence
               on conflict do nothing
               returning order_id, sequence
           ), lines as materialized (
               select d.order_id, d.sequence, d.day, d.currency, d.orders, i.product_id,
                      d.orders * i.quantity as units,
                      d.orders * i.quantity * i.unit_amount as amount
               from due d join fresh using (order_id, sequence)
               cross join lateral jsonb_to_recordset(d.items)
                   as i (product_id uuid, quantity bigint, unit_amount bigint)
           ), by_order as (
               select day, currency, orders, sum(units) as units, sum(amount) as amount
               from lines group by order_id, sequence, day, currency, orders
           ), daily as (
               insert into daily_sales as s (day, currency, orders, units, total_amount)
               select day, currency, sum(orders), sum(units), sum(amount)
               from by_order group by day, currency order by day, currency
               on conflict (day, currency) do update set
                   orders = s.orders + excluded.orders,
                   units = s.units + excluded.units,
                   total_amount = s.total_amount + excluded.total_amount
           ), daily_by_product as (
               insert into daily_product_sales as s
                   (product_id, currency, day, orders, units, total_amount)
               select product_id, currency, day, sum(orders), sum(units), sum(amount)
               from lines group by product_id, currency, day order by product_id, currency, day
               on conflict (product_id, currency, day) do update set
                   orders = s.orders + excluded.orders,
                   units = s.units + excluded.units,
                   total_amount = s.total_amount + excluded.total_amount
           )
           select extract(epoch from clock_timestamp() - min(d.created_at))::float8
           from due d join fresh using (order_id, sequence)"#,
        event_ids,
    )
    .fetch_one(conn)
    .await
}

/// Sales per day and currency, oldest first, from behind `after`.
pub(super) async fn by_day(
    conn: &mut Conn,
    range: Range,
    after: &(Date, String),
    limit: i64,
) -> Result<Vec<DailySales>, sqlx::Error> {
    sqlx::query_as!(
        DailySales,
        "select day, currency, orders, units, total_amount from daily_sales
         where day between $1 and $2 and (day, currency) > ($3, $4) and orders > 0
         order by day, currency limit $5",
        range.from,
        range.to,
        after.0,
        after.1,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Sales per product and currency, in the order of their ids, from behind `after`.
pub(super) async fn by_product(
    conn: &mut Conn,
    range: Range,
    after: &(Uuid, String),
    limit: i64,
) -> Result<Vec<ProductSales>, sqlx::Error> {
    sqlx::query_as!(
        ProductSales,
        r#"select s.product_id, p.sku as "sku?", p.name as "name?", s.currency,
                  s.orders as "orders!", s.units as "units!", s.total_amount as "total_amount!"
           from (
               select product_id, currency, sum(orders)::bigint as orders,
                      sum(units)::bigint as units, sum(total_amount)::bigint as total_amount
               from daily_product_sales
               where day between $1 and $2 and (product_id, currency) > ($3, $4)
               group by product_id, currency having sum(orders) > 0
               order by product_id, currency limit $5
           ) s
           left join products p on p.id = s.product_id
           order by s.product_id, s.currency"#,
        range.from,
        range.to,
        after.0,
        after.1,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The `limit` products of each currency that brought in most, those first.
pub(super) async fn top_products(
    conn: &mut Conn,
    range: Range,
    limit: i64,
) -> Result<Vec<ProductSales>, sqlx::Error> {
    sqlx::query_as!(
        ProductSales,
        r#"select s.product_id, p.sku as "sku?", p.name as "name?", s.currency,
                  s.orders as "orders!", s.units as "units!", s.total_amount as "total_amount!"
           from (
               select product_id, currency, sum(orders)::bigint as orders,
                      sum(units)::bigint as units, sum(total_amount)::bigint as total_amount,
                      row_number() over (
                          partition by currency order by sum(total_amount) desc, product_id
                      ) as place
               from daily_product_sales
               where day between $1 and $2
               group by product_id, currency having sum(orders) > 0
           ) s
           left join products p on p.id = s.product_id
           where s.place <= $3
           order by s.currency, s.place"#,
        range.from,
        range.to,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Begins to see one state of everything, however long it looks.
pub(super) async fn take_snapshot(conn: &mut Conn) -> Result<(), sqlx::Error> {
    let snapshot = "set transaction isolation level repeatable read, read only;
        set local statement_timeout = 0";
    sqlx::raw_sql(snapshot).execute(conn).await?;
    Ok(())
}

/// The same, and keeps the read model from changing meanwhile.
pub(super) async fn freeze(conn: &mut Conn) -> Result<(), sqlx::Error> {
    // The snapshot is taken by the first query, so after the lock.
    let freeze = "set transaction isolation level repeatable read;
        set local statement_timeout = 0;
        set local lock_timeout = '30s';
        lock table reported_events in share row exclusive mode";
    sqlx::raw_sql(freeze).execute(conn).await?;
    Ok(())
}

/// An event that changes sales, is not in the sums, and is not on its way to them either.
pub(super) struct Missing {
    pub(super) event_id: Uuid,
    pub(super) order_id: Uuid,
    pub(super) kind: String,
    pub(super) day: Date,
    pub(super) currency: String,
}

/// Events whose job is lost: dead, discarded, or never written. `job` is the kind that adds them.
pub(super) async fn missing(
    conn: &mut Conn,
    job: &str,
    limit: i64,
) -> Result<Vec<Missing>, sqlx::Error> {
    sqlx::query_as!(
        Missing,
        r#"select e.event_id as "event_id!", e.order_id as "order_id!", v.type as "kind!",
                  e.day as "day!", coalesce(e.currency, '?') as "currency!"
           from sales_of_events e join events v on v.id = e.event_id
           where not exists (
                   select from reported_events r
                   where r.order_id = e.order_id and r.sequence = e.sequence
               )
             and e.event_id not in (select event_id from outbox)
             and e.event_id not in (
                   select told.id::uuid from jobs
                   cross join lateral jsonb_array_elements_text(args -> 'event_ids') as told (id)
                   where kind = $1 and state in ('scheduled', 'available', 'running')
               )
           order by e.event_id limit $2"#,
        job,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// A sum of the read model, and what it ought to be.
pub(super) struct Difference {
    pub(super) day: Date,
    pub(super) currency: String,
    /// `None` for the sum of the day.
    pub(super) product_id: Option<Uuid>,
    pub(super) found_units: i64,
    pub(super) found_amount: i64,
    pub(super) expected_units: i64,
    pub(super) expected_amount: i64,
}

/// Where the sums are not what the events that are in them come to.
pub(super) async fn differences(
    conn: &mut Conn,
    limit: i64,
) -> Result<Vec<Difference>, sqlx::Error> {
    sqlx::query_as!(
        Difference,
        r#"with lines as materialized (
               select e.order_id, e.day, e.currency, i.product_id, e.orders,
                      e.orders * i.quantity as units,
                      e.orders * i.quantity * i.unit_amount as amount
               from sales_of_events e join reported_events using (order_id, sequence)
               cross join lateral jsonb_to_recordset(e.items)
                   as i (product_id uuid, quantity bigint, unit_amount bigint)
           ), expected as (
               select day, currency, product_id, sum(orders) as orders, sum(units) as units,
                      sum(amount) as amount
               from lines group by grouping sets ((day, currency, product_id), (day, currency))
           ), orders_of_days as (
               select day, currency, sum(orders) as orders
               from sales_of_events join reported_events using (order_id, sequence)
               group by day, currency
           ), wanted as (
               select e.day, e.currency, e.product_id, e.units, e.amount,
                      case when e.product_id is null then o.orders else e.orders end as orders
               from expected e join orders_of_days o using (day, currency)
           ), found as (
               select day, currency, product_id, orders, units, total_amount as amount
               from daily_product_sales
               union all
               select day, currency, null, orders, units, total_amount from daily_sales
           )
           select coalesce(w.day, f.day) as "day!", coalesce(w.currency, f.currency) as "currency!",
                  coalesce(w.product_id, f.product_id) as "product_id?",
                  coalesce(f.units, 0)::bigint as "found_units!",
                  coalesce(f.amount, 0)::bigint as "found_amount!",
                  coalesce(w.units, 0)::bigint as "expected_units!",
                  coalesce(w.amount, 0)::bigint as "expected_amount!"
           from wanted w
           full join found f on f.day = w.day and f.currency = w.currency
               and coalesce(f.product_id::text, '') = coalesce(w.product_id::text, '')
           where (coalesce(w.orders, 0), coalesce(w.units, 0), coalesce(w.amount, 0))
              <> (coalesce(f.orders, 0), coalesce(f.units, 0), coalesce(f.amount, 0))
           order by 1, 2, 3 limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// Empties the read model: it is filled by [`add_all`] before anybody sees that.
pub(super) async fn clear(conn: &mut Conn) -> Result<(), sqlx::Error> {
    let clear =
        "delete from reported_events; delete from daily_sales; delete from daily_product_sales";
    sqlx::raw_sql(clear).execute(conn).await?;
    Ok(())
}

/// The next events that change sales, in the order of their ids, from behind `after`.
pub(super) async fn events_page(
    conn: &mut Conn,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from events
         where id > $1 and type in ('order.created', 'order.cancelled', 'order.payment_failed')
         order by id limit $2",
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}
