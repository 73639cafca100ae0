//! Use cases of products that are more than one statement.

use http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::{
    cached,
    model::{AdjustStock, CreateProduct, Product, ProductResponse, StockResponse, UpdateProduct},
    queries,
    stock::{StockChange, update_availability},
};
use crate::{
    platform::{
        db::{OnConstraint, Tx},
        events::{self, NewEvent},
        http::{
            error::ApiError,
            etag::{self, IfMatch},
        },
        idempotency::{Begun, Claim, Reply},
    },
    state::AppState,
};

/// # Errors
/// 409 when the SKU is taken, 422 for a negative stock.
pub(super) async fn create(
    app: &AppState,
    claim: Option<&Claim>,
    new: &CreateProduct,
) -> Result<Reply, ApiError> {
    if new.stock.get() < 0 {
        return Err(ApiError::invalid("/stock", "invalid", "must not be negative"));
    }
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let inserted = queries::insert(&mut once.tx, new).await;
    let product = inserted.on_constraint("products_sku_key", sku_taken)?;
    emit(&mut once.tx, "product.created", &product)?;
    evict(app, &mut once.tx, product.id);
    let (location, etag) =
        (format!("/v1/products/{}", product.id), etag::of_version(product.version));
    let reply = Reply::new(StatusCode::CREATED, &ProductResponse::from(product))?;
    Ok(once.finish(reply.location(location).etag(etag)).await?)
}

/// # Errors
/// 404, 409 when the SKU is taken, 412.
pub(super) async fn update(
    app: &AppState,
    id: Uuid,
    if_match: &IfMatch,
    change: &UpdateProduct,
) -> Result<Product, ApiError> {
    let mut tx = app.db.begin().await?;
    let version = queries::find_version_for_update(&mut tx, id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    let updated = queries::update(&mut tx, id, change).await;
    let product = updated.on_constraint("products_sku_key", sku_taken)?;
    emit(&mut tx, "product.updated", &product)?;
    evict(app, &mut tx, id);
    tx.commit().await?;
    Ok(product)
}

/// Takes a product out of the catalogue; old orders keep it.
///
/// # Errors
/// 404, 412.
pub(super) async fn archive(app: &AppState, id: Uuid, if_match: &IfMatch) -> Result<(), ApiError> {
    let mut tx = app.db.begin().await?;
    let version = queries::find_version_for_update(&mut tx, id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    let version = queries::archive(&mut tx, id).await?;
    let event = NewEvent {
        kind: "product.archived",
        subject_id: id,
        sequence: version,
        customer_id: None,
        data: &json!({ "product_id": id }),
    };
    events::emit(&mut tx, &event)?;
    evict(app, &mut tx, id);
    tx.commit().await?;
    Ok(())
}

/// Gives a product another picture, or none.
///
/// # Errors
/// 404, 412.
pub(in crate::domain) async fn set_image(
    app: &AppState,
    tx: &mut Tx,
    id: Uuid,
    if_match: &IfMatch,
    url: Option<&str>,
) -> Result<ProductResponse, ApiError> {
    let version = queries::find_version_for_update(tx, id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    let product = queries::set_image(tx, id, url).await?;
    let event = NewEvent {
        kind: "product.image_changed",
        subject_id: id,
        sequence: product.version,
        customer_id: None,
        data: &json!({ "product_id": id, "image_url": url }),
    };
    events::emit(tx, &event)?;
    evict(app, tx, id);
    Ok(product.into())
}

/// # Errors
/// 404, 409 when the stock would fall below zero.
pub(super) async fn adjust_stock(
    app: &AppState,
    claim: Option<&Claim>,
    id: Uuid,
    input: &AdjustStock,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let delta = input.delta.get();
    let adjusted = queries::adjust_stock(&mut once.tx, id, delta).await;
    let after = adjusted
        .on_constraint("inventory_on_hand_is_not_negative", || {
            ApiError::conflict("insufficient_stock", "There are not that many units.")
        })?
        .ok_or_else(ApiError::not_found)?;
    let change = StockChange { product_id: id, before: after - delta, after };
    update_availability(app, &mut once.tx, [change]).await?;
    let body = StockResponse { product_id: id, stock: after };
    Ok(once.finish(Reply::new(StatusCode::OK, &body)?).await?)
}

fn emit(tx: &mut Tx, kind: &'static str, product: &Product) -> Result<(), sqlx::Error> {
    let event = NewEvent {
        kind,
        subject_id: product.id,
        sequence: product.version,
        customer_id: None,
        data: &json!({
            "product_id": product.id,
            "sku": product.sku,
            "name": product.name,
            "unit_amount": product.unit_amount,
            "currency": product.currency,
        }),
    };
    events::emit(tx, &event)
}

fn evict(app: &AppState, tx: &mut Tx, id: Uuid) {
    cached::evict(tx, &app.product_cache, &app.catalogue_cache, [id]);
}

fn sku_taken() -> ApiError {
    ApiError::conflict("sku_taken", "Another product has this SKU.")
}
