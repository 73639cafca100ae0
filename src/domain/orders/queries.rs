//! Statements on `orders` and `order_items`.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    model::{Order, OrderItem},
    status::Status,
};
use crate::platform::db::Conn;

/// Writes the order and its lines by one statement.
pub(super) async fn insert(
    conn: &mut Conn,
    id: Uuid,
    customer_id: Uuid,
    total_amount: i64,
    currency: &str,
    items: &[OrderItem],
) -> Result<Order, sqlx::Error> {
    let product_ids: Vec<Uuid> = items.iter().map(|item| item.product_id).collect();
    let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    let quantities: Vec<i32> = items.iter().map(|item| item.quantity).collect();
    let unit_amounts: Vec<i64> = items.iter().map(|item| item.unit_amount).collect();
    sqlx::query_as!(
        Order,
        r#"with lines as (
               insert into order_items
                   (order_id, line, customer_id, product_id, name, quantity, unit_amount)
               select $1, l.line, $2, l.product_id, l.name, l.quantity, l.unit_amount
               from unnest($5::uuid[], $6::text[], $7::int[], $8::bigint[]) with ordinality
                   as l (product_id, name, quantity, unit_amount, line)
           )
           insert into orders (id, customer_id, status, total_amount, currency)
           values ($1, $2, 'pending', $3, $4)
           returning id, customer_id, status as "status: Status", total_amount, currency, version,
                     created_at, updated_at"#,
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
    .await
}

/// An order; with `customer_id`, only if it is that customer's.
pub(super) async fn find(
    conn: &mut Conn,
    id: Uuid,
    customer_id: Option<Uuid>,
) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as!(
        Order,
        r#"select id, customer_id, status as "status: Status", total_amount, currency, version,
                  created_at, updated_at
           from orders where id = $1 and ($2::uuid is null or customer_id = $2)"#,
        id,
        customer_id,
    )
    .fetch_optional(conn)
    .await
}

/// Like [`find`], with the row locked until the transaction ends.
pub(super) async fn find_for_update(
    conn: &mut Conn,
    id: Uuid,
    customer_id: Option<Uuid>,
) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as!(
        Order,
        r#"select id, customer_id, status as "status: Status", total_amount, currency, version,
                  created_at, updated_at
           from orders where id = $1 and ($2::uuid is null or customer_id = $2)
           for no key update"#,
        id,
        customer_id,
    )
    .fetch_optional(conn)
    .await
}

/// The lines of several orders, by order.
pub(super) async fn find_items(
    conn: &mut Conn,
    order_ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<OrderItem>>, sqlx::Error> {
    let rows = sqlx::query!(
        "select order_id, product_id, name, quantity, unit_amount from order_items
         where order_id = any($1) order by order_id, line",
        order_ids,
    )
    .fetch_all(conn)
    .await?;
    let mut items: HashMap<Uuid, Vec<OrderItem>> = HashMap::with_capacity(order_ids.len());
    for row in rows {
        items.entry(row.order_id).or_default().push(OrderItem {
            product_id: row.product_id,
            name: row.name,
            quantity: row.quantity,
            unit_amount: row.unit_amount,
        });
    }
    Ok(items)
}

pub(super) async fn set_status(
    conn: &mut Conn,
    id: Uuid,
    status: Status,
) -> Result<Order, sqlx::Error> {
    sqlx::query_as!(
        Order,
        r#"update orders set status = $2, version = version + 1, updated_at = now()
           where id = $1
           returning id, customer_id, status as "status: Status", total_amount, currency, version,
                     created_at, updated_at"#,
        id,
        status as _,
    )
    .fetch_one(conn)
    .await
}

/// A page of a customer's orders, or of everybody's, newest first, from behind `before`. One
/// statement per combination, since each walks an index of its own.
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
                Order,
                r#"select id, customer_id, status as "status: Status", total_amount, currency,
                          version, created_at, updated_at
                   from orders where id < $1"# + $filter + " order by id desc limit $2",
                before,
                limit $(, $argument)*
            )
            .fetch_all(conn)
            .await
        };
    }
    match (customer_id, status) {
        (Some(customer), None) => page!(" and customer_id = $3", customer),
        (Some(customer), Some(status)) => {
            page!(" and customer_id = $3 and status = $4", customer, status as _)
        }
        (None, None) => page!(""),
        (None, Some(status)) => page!(" and status = $3", status as _),
    }
}
