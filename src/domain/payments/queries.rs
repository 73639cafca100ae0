//! Statements on `payments`.

use uuid::Uuid;

use super::model::{Payment, Status};
use crate::{domain::orders::Bill, platform::db::Conn};

/// Writes the payment of an order, unless there is one: the one there is.
pub(super) async fn begin(conn: &mut Conn, bill: &Bill) -> Result<Payment, sqlx::Error> {
    sqlx::query_as!(
        Payment,
        r#"with begun as (
               insert into payments (order_id, customer_id, amount, currency)
               values ($1, $2, $3, $4)
               on conflict (order_id) do nothing
               returning order_id, status, amount, currency, reason, created_at, updated_at
           )
           select order_id as "order_id!", status as "status!: Status", amount as "amount!",
                  currency as "currency!", reason, created_at as "created_at!",
                  updated_at as "updated_at!"
           from begun
           union all
           select order_id, status, amount, currency, reason, created_at, updated_at
           from payments where order_id = $1"#,
        bill.order_id,
        bill.customer_id,
        bill.amount,
        bill.currency,
    )
    .fetch_one(conn)
    .await
}

/// A payment; with `customer_id`, only if it is that customer's.
pub(super) async fn find(
    conn: &mut Conn,
    order_id: Uuid,
    customer_id: Option<Uuid>,
) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as!(
        Payment,
        r#"select order_id, status as "status: Status", amount, currency, reason, created_at,
                  updated_at
           from payments
           where order_id = $1 and ($2::uuid is null or customer_id = $2)"#,
        order_id,
        customer_id,
    )
    .fetch_optional(conn)
    .await
}

/// Whether anything was ever charged, or about to be.
pub(super) async fn is_any(conn: &mut Conn) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select exists (select from payments) as "is_any!""#)
        .fetch_one(conn)
        .await
}

/// Notes the provider's word on a charge, unless it is being voided: whether it was noted.
pub(super) async fn settle(
    conn: &mut Conn,
    order_id: Uuid,
    status: Status,
    charge_id: Option<&str>,
    reason: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payments set status = $2, charge_id = $3, reason = $4, updated_at = now()
         where order_id = $1 and status = 'charging'",
        order_id,
        status as _,
        charge_id,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// From now on no word on the charge counts: its amount, if there is anything to give back.
pub(super) async fn begin_void(
    conn: &mut Conn,
    order_id: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "update payments set status = 'voiding', updated_at = now()
         where order_id = $1 and status in ('charging', 'captured', 'voiding')
         returning amount",
        order_id,
    )
    .fetch_optional(conn)
    .await
}

pub(super) async fn finish_void(conn: &mut Conn, order_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update payments set status = 'voided', updated_at = now()
         where order_id = $1 and status = 'voiding'",
        order_id,
    )
    .execute(conn)
    .await?;
    Ok(())
}
