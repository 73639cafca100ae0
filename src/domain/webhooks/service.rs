//! Use cases of webhooks.

use http::StatusCode;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    deliveries::{self, Body, Deliver},
    model::{
        CreateEndpoint, DeliveryResponse, Endpoint, EndpointUrl, EndpointWithSecret, UpdateEndpoint,
    },
    queries,
};
use crate::{
    platform::{
        http::{
            error::ApiError,
            etag::{self, IfMatch},
        },
        idempotency::{Begun, Claim, Reply},
        jobs,
        webhooks::Secret,
    },
    state::AppState,
};

/// Every event is held against all of them.
const MAX_ENDPOINTS: i64 = 100;

/// # Errors
/// 409 when there are too many, 422 for an address that nothing is sent to.
pub(super) async fn create(
    app: &AppState,
    claim: Option<&Claim>,
    new: &CreateEndpoint,
) -> Result<Reply, ApiError> {
    check(app, &new.url)?;
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let secret = Secret::generate();
    let endpoint = queries::insert(&mut once.tx, new, &secret, MAX_ENDPOINTS).await?;
    let endpoint = endpoint.ok_or_else(|| {
        ApiError::conflict("too_many_webhooks", "There can be 100 webhooks; delete one first.")
    })?;
    let (location, etag) =
        (format!("/v1/webhooks/{}", endpoint.id), etag::of_version(endpoint.version));
    let reply = Reply::new(StatusCode::CREATED, &EndpointWithSecret::new(endpoint, &secret))?;
    Ok(once.finish(reply.location(location).etag(etag)).await?)
}

/// # Errors
/// 404, 412, 422 for an address that nothing is sent to.
pub(super) async fn update(
    app: &AppState,
    id: Uuid,
    if_match: &IfMatch,
    change: &UpdateEndpoint,
) -> Result<Endpoint, ApiError> {
    if let Some(url) = &change.url {
        check(app, url)?;
    }
    let mut tx = app.db.begin().await?;
    let version = queries::find_version_for_update(&mut tx, id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    let endpoint = queries::update(&mut tx, id, change).await?;
    tx.commit().await?;
    Ok(endpoint)
}

/// # Errors
/// 404, 412.
pub(super) async fn delete(app: &AppState, id: Uuid, if_match: &IfMatch) -> Result<(), ApiError> {
    let mut tx = app.db.begin().await?;
    let version = queries::find_version_for_update(&mut tx, id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    queries::delete(&mut tx, id).await?;
    tx.commit().await?;
    Ok(())
}

/// # Errors
/// 404.
pub(super) async fn rotate_secret(
    app: &AppState,
    claim: Option<&Claim>,
    id: Uuid,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let secret = Secret::generate();
    let endpoint = queries::rotate_secret(&mut once.tx, id, &secret).await?;
    let endpoint = endpoint.ok_or_else(ApiError::not_found)?;
    let etag = etag::of_version(endpoint.version);
    let reply = Reply::new(StatusCode::OK, &EndpointWithSecret::new(endpoint, &secret))?;
    Ok(once.finish(reply.etag(etag)).await?)
}

/// Sends a `webhook.test`, whatever the endpoint has asked for.
///
/// # Errors
/// 404, 409 when the endpoint is disabled.
pub(super) async fn test(
    app: &AppState,
    claim: Option<&Claim>,
    id: Uuid,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    check_enabled(queries::lock_enabled(&mut once.tx, id).await?)?;
    let data = json!({ "webhook_id": id });
    let body = Body { kind: "webhook.test", timestamp: OffsetDateTime::now_utc(), data: &data };
    let body = serde_json::to_string(&body)?;
    let delivery =
        deliveries::queries::insert_test(&mut once.tx, id, "webhook.test", &body).await?;
    let job = Deliver { delivery: delivery.id, endpoint: id, round: 1 };
    jobs::enqueue(&mut once.tx, &job).await?;
    let reply = Reply::new(StatusCode::ACCEPTED, &DeliveryResponse::from(delivery))?;
    Ok(once.finish(reply).await?)
}

/// Begins the schedule of a delivery anew, whatever has become of it.
///
/// # Errors
/// 404, 409 when the endpoint is disabled.
pub(super) async fn redeliver(
    app: &AppState,
    claim: Option<&Claim>,
    endpoint_id: Uuid,
    id: Uuid,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    // The delivery before its endpoint: whoever records an attempt locks them in this order.
    let begun = deliveries::queries::begin_round(&mut once.tx, endpoint_id, id).await?;
    let (delivery, round) = begun.ok_or_else(ApiError::not_found)?;
    check_enabled(queries::lock_enabled(&mut once.tx, endpoint_id).await?)?;
    jobs::enqueue(&mut once.tx, &Deliver { delivery: id, endpoint: endpoint_id, round }).await?;
    let reply = Reply::new(StatusCode::ACCEPTED, &DeliveryResponse::from(delivery))?;
    Ok(once.finish(reply).await?)
}

fn check(app: &AppState, url: &EndpointUrl) -> Result<(), ApiError> {
    app.webhooks
        .check(&url.0)
        .map_err(|refusal| ApiError::invalid("/url", "invalid", refusal.to_string()))
}

fn check_enabled(enabled: Option<bool>) -> Result<(), ApiError> {
    match enabled {
        Some(true) => Ok(()),
        Some(false) => Err(ApiError::conflict("webhook_disabled", "Enable the webhook first.")),
        None => Err(ApiError::not_found()),
    }
}
