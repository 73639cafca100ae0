//! Use cases of orders. HTTP and jobs share them.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::{
    model::{Basket, CreateOrder, NewOrder, Order, OrderItem, OrderResponse},
    queries,
    status::Status,
};
use crate::{
    domain::products::{self, SoldLine, StockChange},
    platform::{
        db::Tx,
        events::{self, NewEvent},
        http::error::ApiError,
        idempotency::{Begun, Claim, Reply},
    },
    state::AppState,
};

/// Places an order: stock, order, lines, event and the answer to the key, all or nothing.
///
/// # Errors
/// 409 `out_of_stock` and 422 for unknown products or mixed currencies, each with a pointer per
/// item; those of idempotency.
pub(super) async fn place(
    app: &AppState,
    claim: &Claim,
    customer_id: Uuid,
    input: &CreateOrder,
) -> Result<Reply, ApiError> {
    let basket = Basket::new(input)?;
    let mut once = match app.idempotency.begin(Some(claim)).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let tx = &mut once.tx;
    let sold = products::take_stock(tx, &basket.product_ids, &basket.quantities).await?;
    let sold = check(&basket, sold)?;
    let changes = sold.iter().filter_map(|line| {
        let after = line.left?;
        let (product_id, before) = (line.product_id, after + i64::from(line.quantity));
        Some(StockChange { product_id, before, after })
    });
    products::update_availability(app, tx, changes).await?;
    let order = queries::insert(tx, new_order(customer_id, sold)).await?;
    emit(tx, &order, json!({ "items": order.items }))?;
    let location = format!("/v1/orders/{}", order.id);
    let reply = Reply::new(StatusCode::CREATED, &OrderResponse::from(order))?.location(location);
    Ok(once.finish(reply).await?)
}

/// The lines in the order of the basket, if all of them can be had together.
fn check(basket: &Basket, mut sold: Vec<SoldLine>) -> Result<Vec<SoldLine>, ApiError> {
    let find = |sold: &[SoldLine], line: usize| {
        sold.iter().position(|sold| sold.product_id == basket.product_ids[line])
    };
    let unknown = basket.errors(|line| {
        find(&sold, line).is_none().then(|| {
            ("product_id", "unknown_product", "is not a product of the catalogue".to_owned())
        })
    });
    if !unknown.is_empty() {
        return Err(ApiError::validation(unknown));
    }
    let position =
        |line: &SoldLine| basket.product_ids.iter().position(|id| *id == line.product_id);
    sold.sort_by_key(position);
    let mixed = basket.errors(|line| {
        (sold[line].currency != sold[0].currency).then(|| {
            let detail =
                format!("is priced in {}, the first in {}", sold[line].currency, sold[0].currency);
            ("product_id", "mixed_currencies", detail)
        })
    });
    if !mixed.is_empty() {
        return Err(ApiError::validation(mixed));
    }
    let short = basket.errors(|line| {
        let detail = "is more than there is in stock".to_owned();
        sold[line].left.is_none().then_some(("quantity", "out_of_stock", detail))
    });
    if !short.is_empty() {
        let error = ApiError::conflict(
            "out_of_stock",
            "There is not enough of everything; nothing was ordered.",
        );
        return Err(error.errors(short));
    }
    Ok(sold)
}

fn new_order(customer_id: Uuid, sold: Vec<SoldLine>) -> NewOrder {
    let currency = sold.first().map(|line| line.currency.clone()).unwrap_or_default();
    let items: Vec<OrderItem> = sold
        .into_iter()
        .map(|line| OrderItem {
            product_id: line.product_id,
            name: line.name,
            quantity: line.quantity,
            unit_amount: line.unit_amount,
        })
        .collect();
    // The bounds of line count, quantity and amount keep this within 64 bits.
    let total = items.iter().map(|item| i64::from(item.quantity) * item.unit_amount).sum();
    NewOrder { customer_id, total_amount: total, currency, items }
}

/// Cancels an order and returns its stock, once; a second time is told the same.
///
/// # Errors
/// 404, 409 once it is shipped.
pub(super) async fn cancel(
    app: &AppState,
    claim: Option<&Claim>,
    customer_id: Uuid,
    id: Uuid,
) -> Result<Reply, ApiError> {
    move_to(app, claim, Some(customer_id), id, Status::Cancelled).await
}

/// Moves an order on, as an administrator or a job does.
///
/// # Errors
/// 404, 409 for a move that its state does not allow.
pub async fn advance(
    app: &AppState,
    claim: Option<&Claim>,
    id: Uuid,
    next: Status,
) -> Result<Reply, ApiError> {
    move_to(app, claim, None, id, next).await
}

/// Records that an order was paid.
///
/// # Errors
/// 404, 409 if it is not waiting for a payment.
pub async fn mark_paid(app: &AppState, id: Uuid) -> Result<(), ApiError> {
    advance(app, None, id, Status::Paid).await.map(|_| ())
}

/// Orders that one transaction cancels: each locks the stock of its products until the commit.
const EXPIRED_AT_ONCE: i64 = 20;

/// Cancels the orders that were not paid within `term`, and returns their stock: how many. What
/// somebody is about to pay, cancel or expire is left alone.
///
/// # Errors
/// The database refused; those cancelled before stay so.
pub(super) async fn expire_unpaid(app: &AppState, term: Duration) -> Result<u64, ApiError> {
    let mut expired = 0;
    loop {
        let mut tx = app.db.begin().await?;
        let ids = queries::lock_overdue(&mut tx, term, EXPIRED_AT_ONCE).await?;
        for id in &ids {
            let found = queries::find_for_update(&mut tx, *id, None).await?;
            let Some(order) = found else { continue };
            let details = json!({ "previous": order.status, "reason": "payment_overdue" });
            let order = queries::set_status(&mut tx, order, Status::Cancelled).await?;
            emit(&mut tx, &order, details)?;
            release_stock(app, &mut tx, &order).await?;
            expired += 1;
        }
        tx.commit().await?;
        if (ids.len() as i64) < EXPIRED_AT_ONCE {
            return Ok(expired);
        }
    }
}

async fn move_to(
    app: &AppState,
    claim: Option<&Claim>,
    customer_id: Option<Uuid>,
    id: Uuid,
    next: Status,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let tx = &mut once.tx;
    let found = queries::find_for_update(tx, id, customer_id).await?;
    let current = found.ok_or_else(ApiError::not_found)?;
    let order = if current.status == next {
        current
    } else if current.status.can_become(next) {
        step(app, tx, current, next).await?
    } else {
        return Err(ApiError::conflict(
            "illegal_move",
            format!(
                "An order that is {} cannot become {}.",
                current.status.as_str(),
                next.as_str()
            ),
        ));
    };
    let reply = Reply::new(StatusCode::OK, &OrderResponse::from(order))?;
    Ok(once.finish(reply).await?)
}

/// Moves an order that waits for its payment on, in the caller's transaction: whether it did.
///
/// # Errors
/// The database refused.
pub async fn settle(
    app: &AppState,
    tx: &mut Tx,
    id: Uuid,
    next: Status,
) -> Result<bool, sqlx::Error> {
    match queries::find_for_update(tx, id, None).await? {
        Some(order) if order.status == Status::Pending => {
            step(app, tx, order, next).await.map(|_| true)
        }
        _ => Ok(false),
    }
}

async fn step(
    app: &AppState,
    tx: &mut Tx,
    order: Order,
    next: Status,
) -> Result<Order, sqlx::Error> {
    let previous = order.status;
    let order = queries::set_status(tx, order, next).await?;
    emit(tx, &order, json!({ "previous": previous }))?;
    release_stock(app, tx, &order).await?;
    Ok(order)
}

/// Returns what the order had taken, if its status means that nobody will get it.
async fn release_stock(app: &AppState, tx: &mut Tx, order: &Order) -> Result<(), sqlx::Error> {
    if !matches!(order.status, Status::Cancelled | Status::PaymentFailed) {
        return Ok(());
    }
    let items = &order.items;
    let product_ids: Vec<Uuid> = items.iter().map(|item| item.product_id).collect();
    let quantities: Vec<i32> = items.iter().map(|item| item.quantity).collect();
    let changes = products::return_stock(tx, &product_ids, &quantities).await?;
    products::update_availability(app, tx, changes).await
}

/// Writes the event that tells of the state `order` is in now. `details` are merged into what
/// every event of an order says.
fn emit(tx: &mut Tx, order: &Order, details: serde_json::Value) -> Result<(), sqlx::Error> {
    let mut data = json!({
        "order_id": order.id,
        "status": order.status,
        "total_amount": order.total_amount,
        "currency": order.currency,
    });
    if let (Some(data), serde_json::Value::Object(details)) = (data.as_object_mut(), details) {
        data.extend(details);
    }
    let event = NewEvent {
        kind: order.status.event(),
        subject_id: order.id,
        sequence: order.version,
        customer_id: Some(order.customer_id),
        data: &data,
    };
    events::emit(tx, &event)
}
