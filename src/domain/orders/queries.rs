//! Statements on `orders` and `order_items`.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    model::{Bill, NewOrder, Order, OrderItem},
    status::Status,
};
use crate::platform::{
    db::Conn,
    events::Event,
    streams::{From, time_of},
};

/// Writes the order and its lines by one statement.
pub(super) async fn insert(conn: &mut Conn, new: NewOrder) -> Result<Order, sqlx::Error> {
    let NewOrder { customer_id, total_amount, currency, items } = new;
    let id = Uuid::now_v7();
    let product_ids: Vec<Uuid> = items.iter().map(|item| item.product_id).collect();
    let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    let quantities: Vec<i32> = items.iter().map(|item| item.quantity).collect();
    let unit_amounts: Vec<i64> = items.iter().map(|item| item.unit_amount).collect();
    let created_at = sqlx::query_scalar!(
        "with lines as (
             insert into order_items
                 (order_id, line, customer_id, product_id, name, quantity, unit_amount)
             select $1, l.line, $2, l.product_id, l.name, l.quantity, l.unit_amount
             from unnest($5::uuid[], $6::text[], $7::int[], $8::bigint[]) with ordinality
                 as l (product_id, name, quantity, unit_amount, line)
         )
         insert into orders (id, customer_id, status, total_amount, currency)
         values ($1, $2, 'pending', $3, $4)
         returning created_at",
        id,
        customer_id,
        total_amount,
        currency,
        &product_ids,
        &names as &[&str],
        &quantities,
        &unit_amounts,
    )
    .fetch_one(conn)
    .await?;
    Ok(Order {
        id,
        customer_id,
        status: Status::Pending,
        items,
        total_amount,
        currency,
        version: 1,
        created_at,
        updated_at: created_at,
    })
}

/// An order and one of its lines, or none: what an outer join gives. An order without lines is none
/// that was ever placed, and must be seen all the more.
struct Line {
    id: Uuid,
    customer_id: Uuid,
    status: Status,
    total_amount: i64,
    currency: String,
    version: i32,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    product_id: Option<Uuid>,
    name: Option<String>,
    quantity: Option<i32>,
    unit_amount: Option<i64>,
}

impl Line {
    fn take_item(&mut self) -> Option<OrderItem> {
        Some(OrderItem {
            product_id: self.product_id?,
            name: self.name.take()?,
            quantity: self.quantity?,
            unit_amount: self.unit_amount?,
        })
    }
}

/// Orders with their lines. Those of one order follow each other.
fn collect(lines: Vec<Line>) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::new();
    for mut line in lines {
        let item = line.take_item();
        match orders.last_mut() {
            Some(order) if order.id == line.id => order.items.extend(item),
            _ => orders.push(Order {
                id: line.id,
                customer_id: line.customer_id,
                status: line.status,
                items: item.into_iter().collect(),
                total_amount: line.total_amount,
                currency: line.currency,
                version: line.version,
                created_at: line.created_at,
                updated_at: line.updated_at,
            }),
        }
    }
    orders
}

/// An order; with `customer_id`, only if it is that customer's.
pub(super) async fn find(
    conn: &mut Conn,
    id: Uuid,
    customer_id: Option<Uuid>,
) -> Result<Option<Order>, sqlx::Error> {
    let lines = sqlx::query_as!(
        Line,
        r#"select o.id, o.customer_id, o.status as "status: Status", o.total_amount, o.currency,
                  o.version, o.created_at, o.updated_at,
                  i.product_id as "product_id?", i.name as "name?",
                  i.quantity as "quantity?", i.unit_amount as "unit_amount?"
           from orders o left join order_items i on i.order_id = o.id
           where o.id = $1 and ($2::uuid is null or o.customer_id = $2)
           order by i.line"#,
        id,
        customer_id,
    )
    .fetch_all(conn)
    .await?;
    Ok(collect(lines).pop())
}

/// Like [`find`], with the row locked until the transaction ends.
pub(super) async fn find_for_update(
    conn: &mut Conn,
    id: Uuid,
    customer_id: Option<Uuid>,
) -> Result<Option<Order>, sqlx::Error> {
    let lines = sqlx::query_as!(
        Line,
        r#"with o as (
               select * from orders where id = $1 and ($2::uuid is null or customer_id = $2)
               for no key update
           )
           select o.id, o.customer_id, o.status as "status: Status", o.total_amount, o.currency,
                  o.version, o.created_at, o.updated_at,
                  i.product_id as "product_id?", i.name as "name?",
                  i.quantity as "quantity?", i.unit_amount as "unit_amount?"
           from o left join order_items i on i.order_id = o.id
           order by i.line"#,
        id,
        customer_id,
    )
    .fetch_all(conn)
    .await?;
    Ok(collect(lines).pop())
}

/// Locks orders that wait for a payment and are older than `term`, oldest first, until the
/// transaction ends; those that somebody else has locked are left out. One that is being charged is
/// not: the row decides who comes first, and what was charged for a cancelled order is given back.
pub(super) async fn lock_overdue(
    conn: &mut Conn,
    term: Duration,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    // The id begins with the time, so `status, id` is the index that has them in order.
    sqlx::query_scalar!(
        "select id from orders
         where status = 'pending' and id < uuid_at(now() - make_interval(secs => $1))
         order by id limit $2 for no key update skip locked",
        term.as_secs_f64(),
        limit,
    )
    .fetch_all(conn)
    .await
}

/// What is to be paid for an order, if it waits for that; and nobody changes that before the
/// transaction ends.
///
/// # Errors
/// The database refused.
pub async fn find_unpaid(conn: &mut Conn, id: Uuid) -> Result<Option<Bill>, sqlx::Error> {
    sqlx::query_as!(
        Bill,
        "select id as order_id, customer_id, total_amount as amount, currency from orders
         where id = $1 and status = 'pending' for share",
        id,
    )
    .fetch_optional(conn)
    .await
}

/// Moves an order on: what is now of it.
pub(super) async fn set_status(
    conn: &mut Conn,
    order: Order,
    status: Status,
) -> Result<Order, sqlx::Error> {
    let row = sqlx::query!(
        "update orders set status = $2, version = version + 1, updated_at = now()
         where id = $1 returning version, updated_at",
        order.id,
        status as _,
    )
    .fetch_one(conn)
    .await?;
    Ok(Order { status, version: row.version, updated_at: row.updated_at, ..order })
}

/// A page of a customer's orders, or of everybody's, newest first, from behind `before`. One
/// statement per combination, since each walks an index of its own. The page is
/// found first (`materialized`), then the lines of one order after the other (`offset 0`): a page
/// whose limit is not known yet is taken for a tenth of the table, and so would be read.
pub(super) async fn list_page(
    conn: &mut Conn,
    customer_id: Option<Uuid>,
    status: Option<Status>,
    before: Uuid,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    macro_rules! page {
        ($filter:literal $(, $argument:expr)*) => {
            sqlx::query_as!(
                Line,
                r#"with o as materialized (select * from orders where id < $1"# + $filter + r#"
                       order by id desc limit $2)
                   select o.id, o.customer_id, o.status as "status: Status", o.total_amount,
                          o.currency, o.version, o.created_at, o.updated_at,
                          i.product_id as "product_id?", i.name as "name?",
                  i.quantity as "quantity?", i.unit_amount as "unit_amount?"
                   from o left join lateral
                       (select * from order_items where order_id = o.id offset 0) i on true
                   order by o.id desc, i.line"#,
                before,
                limit $(, $argument)*
            )
            .fetch_all(conn)
            .await
        };
    }
    let lines = match (customer_id, status) {
        (Some(customer), None) => page!(" and customer_id = $3", customer),
        (Some(customer), Some(status)) => {
            page!(" and customer_id = $3 and status = $4", customer, status as _)
        }
        (None, None) => page!(""),
        (None, Some(status)) => page!(" and status = $3", status as _),
    };
    lines.map(collect)
}

/// All that the transaction reads from here on is of one moment.
pub(super) async fn take_snapshot(conn: &mut Conn) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("set transaction isolation level repeatable read, read only")
        .execute(conn)
        .await?;
    Ok(())
}

/// The first event of an order, and whether there is no such order.
pub(super) struct Beginning {
    pub(super) event_id: Uuid,
    pub(super) order_id: Uuid,
    pub(super) is_orphan: bool,
}

/// The beginnings of orders, in the order in which they were told of, from behind `after`.
pub(super) async fn beginnings(
    conn: &mut Conn,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Beginning>, sqlx::Error> {
    sqlx::query_as!(
        Beginning,
        r#"select e.id as event_id, e.subject_id as order_id, o.id is null as "is_orphan!"
           from (
               select id, subject_id from events
               where id > $1 and type = 'order.created' order by id limit $2
           ) e
           left join orders o on o.id = e.subject_id
           order by e.id"#,
        after,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// What a stream begins with.
pub(super) struct Known {
    pub(super) now: OffsetDateTime,
    /// When the last event that a client has seen was written.
    pub(super) last: Option<OffsetDateTime>,
    /// As an id, for a client that has seen nothing.
    pub(super) start: Uuid,
}

/// By the clock of the database, since those of replicas differ. An id that is no event's of the
/// customer, such as one that was given out as a start, stands for the time that it begins with.
pub(super) async fn told_at(
    conn: &mut Conn,
    customer_id: Uuid,
    last: Option<Uuid>,
) -> Result<Known, sqlx::Error> {
    let known = sqlx::query_as!(
        Known,
        r#"select now() as "now!", uuid_at(now()) as "start!",
                  (select created_at from events where id = $2 and customer_id = $1) as last"#,
        customer_id,
        last,
    )
    .fetch_one(conn)
    .await?;
    Ok(Known { last: known.last.or(last.map(time_of)), ..known })
}

/// The next events of a customer's orders, in the order in which they were written. Found by the
/// orders that have changed since: an index of events by customer would cost every order more
/// than this costs those who come back.
pub(super) async fn told_since(
    conn: &mut Conn,
    customer_id: Uuid,
    from: From,
) -> Result<Vec<Event>, sqlx::Error> {
    let (since, ago, behind) = match from {
        From::Ago(ago) => (None, ago.as_secs_f64(), Uuid::nil()),
        From::Behind(time, id) => (Some(time), 0.0, id),
    };
    sqlx::query_as!(
        Event,
        r#"with since as materialized (
               select coalesce($2, now() - make_interval(secs => $3)) as time
           )
           select e.id, e.type as kind, e.subject_id, e.sequence, e.customer_id, e.data,
                  e.request_id, e.traceparent, e.created_at
           from since
           cross join lateral (
               select id from orders where customer_id = $1 and updated_at >= since.time offset 0
           ) o
           join events e on e.subject_id = o.id
           where (e.created_at, e.id) > (since.time, $4)
           order by e.created_at, e.id limit 100"#,
        customer_id,
        since,
        ago,
        behind,
    )
    .fetch_all(conn)
    .await
}
