//! Statements on `orders` and `order_items`.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    model::{Bill, NewOrder, Order, OrderItem},
    status::Status,
};
use crate::platform::db::Conn;

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

/// An order and one of its lines: what a join gives.
struct Line {
    id: Uuid,
    customer_id: Uuid,
    status: Status,
    total_amount: i64,
    currency: String,
    version: i32,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    product_id: Uuid,
    name: String,
    quantity: i32,
    unit_amount: i64,
}

/// Orders with their lines. Those of one order follow each other.
fn collect(lines: Vec<Line>) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::new();
    for line in lines {
        let item = OrderItem {
            product_id: line.product_id,
            name: line.name,
            quantity: line.quantity,
            unit_amount: line.unit_amount,
        };
        match orders.last_mut() {
            Some(order) if order.id == line.id => order.items.push(item),
            _ => orders.push(Order {
                id: line.id,
                customer_id: line.customer_id,
                status: line.status,
                items: vec![item],
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
                  i.product_id, i.name, i.quantity, i.unit_amount
           from orders o join order_items i on i.order_id = o.id
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
                  i.product_id, i.name, i.quantity, i.unit_amount
           from o join order_items i on i.order_id = o.id
           order by i.line"#,
        id,
        customer_id,
    )
    .fetch_all(conn)
    .await?;
    Ok(collect(lines).pop())
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
                          i.product_id, i.name, i.quantity, i.unit_amount
                   from o cross join lateral
                       (select * from order_items where order_id = o.id offset 0) i
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
