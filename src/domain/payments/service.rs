//! Use cases of payments: each is one transaction, and none is open while the provider is asked.

use uuid::Uuid;

use super::{
    model::{Payment, Status, Verdict},
    queries,
};
use crate::{
    domain::orders,
    platform::jobs::{Failure, Lease},
    state::AppState,
};

/// Writes down that the order is being charged for; `None` if it is not to be. Whoever cancels it
/// from now on finds the payment.
pub(super) async fn begin(app: &AppState, order_id: Uuid) -> Result<Option<Payment>, Failure> {
    let mut tx = app.db.begin().await?;
    let Some(bill) = orders::find_unpaid(&mut tx, order_id).await? else {
        return Ok(None);
    };
    let payment = queries::begin(&mut tx, &bill).await?;
    tx.commit().await?;
    Ok((payment.status == Status::Charging).then_some(payment))
}

/// Acts on the provider's word, and completes the job with it.
///
/// Should the order have been cancelled meanwhile, it stays so: `payments.void` gives back what
/// was taken.
pub(super) async fn settle(
    app: &AppState,
    lease: &Lease,
    order_id: Uuid,
    verdict: &Verdict,
) -> Result<(), Failure> {
    let (status, next, charge_id, reason) = match verdict {
        Verdict::Captured { charge_id } => {
            (Status::Captured, orders::Status::Paid, charge_id.as_deref(), None)
        }
        Verdict::Declined { reason } => {
            (Status::Declined, orders::Status::PaymentFailed, None, reason.as_deref())
        }
    };
    let mut tx = app.db.begin().await?;
    lease.complete(&mut tx).await?;
    let was_unpaid = orders::settle(app, &mut tx, order_id, next).await?;
    let was_charging = queries::settle(&mut tx, order_id, status, charge_id, reason).await?;
    tx.commit().await?;
    if !(was_unpaid && was_charging) {
        tracing::info!(order = %order_id, ?status, "paid too late: the order is not waiting for it");
    }
    Ok(())
}

/// Whether the order still waits to be paid, in a shop whose orders are charged for by somebody.
pub(super) async fn is_charged_by_others(app: &AppState, order_id: Uuid) -> Result<bool, Failure> {
    let mut conn = app.db.primary().await?;
    Ok(orders::find_unpaid(&mut conn, order_id).await?.is_some()
        && queries::is_any(&mut conn).await?)
}

/// The amount to give back; `None` if nothing was, or will be, charged.
pub(super) async fn begin_void(app: &AppState, order_id: Uuid) -> Result<Option<i64>, Failure> {
    Ok(queries::begin_void(&mut app.db.primary().await?, order_id).await?)
}

/// Notes that the provider has given it back, and completes the job with it.
pub(super) async fn finish_void(
    app: &AppState,
    lease: &Lease,
    order_id: Uuid,
) -> Result<(), Failure> {
    let mut tx = app.db.begin().await?;
    lease.complete(&mut tx).await?;
    queries::finish_void(&mut tx, order_id).await?;
    tx.commit().await?;
    Ok(())
}
