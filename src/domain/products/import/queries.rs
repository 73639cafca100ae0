//! Statements for many products at once.

use uuid::Uuid;

use super::super::stock::Availability;
use crate::platform::db::Conn;

/// Products as columns, for a statement over arrays.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) ids: Vec<Uuid>,
    pub(super) skus: Vec<String>,
    pub(super) names: Vec<String>,
    pub(super) descriptions: Vec<String>,
    pub(super) unit_amounts: Vec<i64>,
    pub(super) currencies: Vec<String>,
    pub(super) stocks: Vec<i64>,
    pub(super) availabilities: Vec<Availability>,
}

/// Locks those of these products that exist, in the order in which everybody locks products.
pub(super) async fn lock_by_sku(conn: &mut Conn, skus: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select from products where sku = any($1) order by id for no key update",
        skus as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts products with their stock, or updates those whose SKU exists without it. Their ids and
/// SKUs; one whose currency would change is missing.
pub(super) async fn upsert(
    conn: &mut Conn,
    columns: &Columns,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let availabilities: Vec<&str> = columns.availabilities.iter().map(|a| a.as_str()).collect();
    let rows = sqlx::query!(
        "with given as (
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[],
                                  $6::text[], $7::bigint[], $8::text[])
                 as g (id, sku, name, description, unit_amount, currency, stock, availability)
         ), upserted as (
             insert into products as p
                 (id, sku, name, description, unit_amount, currency, availability)
             select id, sku, name, description, unit_amount, currency, availability from given
             on conflict (sku) do update
                 set name = excluded.name, description = excluded.description,
                     unit_amount = excluded.unit_amount, archived_at = null,
                     version = p.version + 1, updated_at = now()
                 where p.currency = excluded.currency
             returning p.id, p.sku
         ), shelves as (
             insert into inventory (product_id, on_hand)
             select u.id, g.stock from upserted u join given g using (sku)
             on conflict (product_id) do nothing
         )
         select id, sku from upserted",
        &columns.ids,
        &columns.skus,
        &columns.names,
        &columns.descriptions,
        &columns.unit_amounts,
        &columns.currencies,
        &columns.stocks,
        &availabilities as &[&str],
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.sku)).collect())
}
