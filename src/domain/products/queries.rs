//! Statements on `products` and `inventory`.

use uuid::Uuid;

use super::{
    model::{CreateProduct, Product, Sort, UpdateProduct},
    stock::{Availability, StockChange},
};
use crate::platform::db::Conn;

pub(super) async fn insert(conn: &mut Conn, new: &CreateProduct) -> Result<Product, sqlx::Error> {
    let stock = new.stock.get();
    sqlx::query_as!(
        Product,
        r#"with product as (
               insert into products
                   (id, sku, name, description, unit_amount, currency, availability)
               values ($1, $2, $3, $4, $5, $6, $7)
               returning *
           ), shelf as (
               insert into inventory (product_id, on_hand) values ($1, $8)
           )
           select id, sku, name, description, unit_amount, currency,
                  availability as "availability: Availability", image_url, version, created_at,
                  updated_at
           from product"#,
        Uuid::now_v7(),
        new.sku.as_str(),
        new.name.as_str(),
        new.description.as_str(),
        new.unit_amount.get(),
        new.currency.as_str(),
        Availability::of(stock) as _,
        stock,
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn find(conn: &mut Conn, id: Uuid) -> Result<Option<Product>, sqlx::Error> {
    sqlx::query_as!(
        Product,
        r#"select id, sku, name, description, unit_amount, currency,
                  availability as "availability: Availability", image_url, version, created_at,
                  updated_at
           from products where id = $1 and archived_at is null"#,
        id,
    )
    .fetch_optional(conn)
    .await
}

/// The version, with the row locked until the transaction ends.
pub(super) async fn find_version_for_update(
    conn: &mut Conn,
    id: Uuid,
) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar!(
        "select version from products where id = $1 and archived_at is null for no key update",
        id,
    )
    .fetch_optional(conn)
    .await
}

pub(super) async fn update(
    conn: &mut Conn,
    id: Uuid,
    change: &UpdateProduct,
) -> Result<Product, sqlx::Error> {
    sqlx::query_as!(
        Product,
        r#"update products
           set sku = coalesce($2, sku), name = coalesce($3, name),
               description = coalesce($4, description), unit_amount = coalesce($5, unit_amount),
               version = version + 1, updated_at = now()
           where id = $1
           returning id, sku, name, description, unit_amount, currency,
                     availability as "availability: Availability", image_url, version,
                     created_at, updated_at"#,
        id,
        change.sku.as_ref().map(|sku| sku.as_str()),
        change.name.as_ref().map(|name| name.as_str()),
        change.description.as_ref().map(|description| description.as_str()),
        change.unit_amount.map(|amount| amount.get()),
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn set_image(
    conn: &mut Conn,
    id: Uuid,
    url: Option<&str>,
) -> Result<Product, sqlx::Error> {
    sqlx::query_as!(
        Product,
        r#"update products set image_url = $2, version = version + 1, updated_at = now()
           where id = $1
           returning id, sku, name, description, unit_amount, currency,
                     availability as "availability: Availability", image_url, version,
                     created_at, updated_at"#,
        id,
        url,
    )
    .fetch_one(conn)
    .await
}

/// The new version. Its picture goes: an import may bring the product back.
pub(super) async fn archive(conn: &mut Conn, id: Uuid) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(
        "update products
         set archived_at = now(), image_url = null, version = version + 1, updated_at = now()
         where id = $1 returning version",
        id,
    )
    .fetch_one(conn)
    .await
}

/// The new version.
pub(super) async fn set_availability(
    conn: &mut Conn,
    id: Uuid,
    availability: Availability,
) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(
        "update products set availability = $2, version = version + 1, updated_at = now()
         where id = $1 returning version",
        id,
        availability as _,
    )
    .fetch_one(conn)
    .await
}

/// Where a page of the catalogue starts: behind this amount and id. The amount is 0 in orders
/// that do not sort by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) amount: i64,
    pub(super) id: Uuid,
}

impl Position {
    /// Before everything, in the direction of `sort`.
    pub(super) fn start(sort: Sort) -> Self {
        match sort {
            Sort::Oldest | Sort::Cheapest => Self { amount: -1, id: Uuid::nil() },
            Sort::Newest | Sort::Dearest => Self { amount: i64::MAX, id: Uuid::max() },
        }
    }
}

/// One statement per order, since each walks an index of its own. An id sorts by creation.
pub(super) async fn list_page(
    conn: &mut Conn,
    sort: Sort,
    from: Position,
    limit: i64,
) -> Result<Vec<Product>, sqlx::Error> {
    macro_rules! page {
        ($behind:literal, $order:literal $(, $argument:expr)*) => {
            sqlx::query_as!(
                Product,
                r#"select id, sku, name, description, unit_amount, currency,
                          availability as "availability: Availability", image_url, version,
                          created_at, updated_at
                   from products where archived_at is null and "# + $behind + " order by " + $order
                    + " limit $1",
                limit $(, $argument)*
            )
            .fetch_all(conn)
            .await
        };
    }
    match sort {
        Sort::Oldest => page!("id > $2", "id", from.id),
        Sort::Newest => page!("id < $2", "id desc", from.id),
        Sort::Cheapest => {
            page!("(unit_amount, id) > ($2, $3)", "unit_amount, id", from.amount, from.id)
        }
        Sort::Dearest => {
            page!("(unit_amount, id) < ($2, $3)", "unit_amount desc, id desc", from.amount, from.id)
        }
    }
}

/// A page of what matches `words`. The matches are found by the index and sorted: whatever the
/// order, one statement for each direction does.
pub(super) async fn search_page(
    conn: &mut Conn,
    words: &str,
    sort: Sort,
    from: Position,
    limit: i64,
) -> Result<Vec<Product>, sqlx::Error> {
    macro_rules! page {
        ($behind:literal, $order:literal) => {
            sqlx::query_as!(
                Product,
                r#"select id, sku, name, description, unit_amount, currency,
                          availability as "availability: Availability", image_url, version,
                          created_at, updated_at
                   from products
                   where archived_at is null and search @@ websearch_to_tsquery('simple', $2)
                     and (case when $3 then unit_amount else 0 end, id) "# + $behind + " ($4, $5)"
                    + " order by " + $order + " limit $1",
                limit,
                words,
                matches!(sort, Sort::Cheapest | Sort::Dearest),
                from.amount,
                from.id,
            )
            .fetch_all(conn)
            .await
        };
    }
    match sort {
        Sort::Oldest | Sort::Cheapest => page!(">", "case when $3 then unit_amount else 0 end, id"),
        Sort::Newest | Sort::Dearest => {
            page!("<", "case when $3 then unit_amount else 0 end desc, id desc")
        }
    }
}

pub(super) async fn find_stock(conn: &mut Conn, id: Uuid) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "select i.on_hand from inventory i join products p on p.id = i.product_id
         where i.product_id = $1 and p.archived_at is null",
        id,
    )
    .fetch_optional(conn)
    .await
}

/// Units left after `delta`. `None` if there is no such product; a stock below zero violates
/// `inventory_on_hand_is_not_negative`.
pub(super) async fn adjust_stock(
    conn: &mut Conn,
    id: Uuid,
    delta: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "update inventory i set on_hand = i.on_hand + $2 from products p
         where i.product_id = $1 and p.id = i.product_id and p.archived_at is null
         returning i.on_hand",
        id,
        delta,
    )
    .fetch_optional(conn)
    .await
}

/// A product that an order asks for, and whether its units were taken.
#[derive(Debug)]
pub struct SoldLine {
    pub product_id: Uuid,
    pub name: String,
    pub unit_amount: i64,
    pub currency: String,
    pub quantity: i32,
    /// Units left after they were taken; `None` if there were too few, and none was taken.
    pub left: Option<i64>,
}

/// Takes units of several products at once: one statement, rows locked in id order so that two
/// orders cannot wait for each other in a circle, and never below zero. What there is too little
/// of comes without `left`, products that do not exist are missing. `product_ids` must not repeat.
///
/// # Errors
/// The database refused.
pub async fn take_stock(
    conn: &mut Conn,
    product_ids: &[Uuid],
    quantities: &[i32],
) -> Result<Vec<SoldLine>, sqlx::Error> {
    // `select $1` hides how many there are from the planner: it would plan anew for each number,
    // which takes five times as long as the statement itself.
    let mut lines = sqlx::query_as!(
        SoldLine,
        r#"with wanted as materialized (
               select * from unnest((select $1::uuid[]), (select $2::int[]))
                   as w (product_id, quantity)
           ), locked as (
               select i.product_id, w.quantity from wanted w join inventory i using (product_id)
               order by i.product_id for no key update of i
           )
           update inventory i set on_hand = i.on_hand - l.quantity
           from locked l join products p on p.id = l.product_id and p.archived_at is null
           where i.product_id = l.product_id and i.on_hand >= l.quantity
           returning p.id as product_id, p.name, p.unit_amount, p.currency,
                     l.quantity as "quantity!", i.on_hand as "left?""#,
        product_ids,
        quantities,
    )
    .fetch_all(&mut *conn)
    .await?;
    if lines.len() < product_ids.len() {
        // Nobody will get any of this: time to tell why.
        let short = sqlx::query_as!(
            SoldLine,
            r#"select p.id as product_id, p.name, p.unit_amount, p.currency,
                      w.quantity as "quantity!", null::bigint as left
               from unnest($1::uuid[], $2::int[]) as w (product_id, quantity)
               join products p on p.id = w.product_id and p.archived_at is null"#,
            product_ids,
            quantities,
        );
        let short = short.fetch_all(conn).await?;
        let is_taken =
            |line: &SoldLine| lines.iter().any(|taken| taken.product_id == line.product_id);
        let short: Vec<_> = short.into_iter().filter(|line| !is_taken(line)).collect();
        lines.extend(short);
    }
    Ok(lines)
}

/// Puts units back, archived products included, in the same lock order.
///
/// # Errors
/// The database refused.
pub async fn return_stock(
    conn: &mut Conn,
    product_ids: &[Uuid],
    quantities: &[i32],
) -> Result<Vec<StockChange>, sqlx::Error> {
    sqlx::query_as!(
        StockChange,
        r#"with returned as (
               select product_id, sum(quantity)::bigint as quantity
               from unnest($1::uuid[], $2::int[]) as r (product_id, quantity)
               group by product_id
           ), locked as (
               select product_id from inventory where product_id = any($1)
               order by product_id for no key update
           )
           update inventory i set on_hand = i.on_hand + r.quantity
           from returned r join locked l using (product_id)
           where i.product_id = r.product_id
           returning i.product_id, i.on_hand - r.quantity as "before!", i.on_hand as "after""#,
        product_ids,
        quantities,
    )
    .fetch_all(conn)
    .await
}
