//! Routes of webhooks.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri, header};
use uuid::Uuid;

use super::{
    deliveries,
    model::{
        CreateEndpoint, Delivery, DeliveryFilter, DeliveryResponse, Endpoint, EndpointResponse,
        EndpointWithSecret, UpdateEndpoint,
    },
    queries, service,
};
use crate::{
    platform::{
        db::Consistency,
        http::{
            error::{ApiError, Problem},
            etag::{self, IfMatch},
            idempotent::{Idempotent, NoBody},
            json,
            pagination::{Page, PageParams},
            params::{Path, Query},
            visitor::Admin,
        },
    },
    state::AppState,
};

/// Webhooks, newest first
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", security(("token" = [])),
    params(PageParams),
    responses((status = 200, body = Page<EndpointResponse>), (status = 403, body = Problem)))]
pub(super) async fn list_webhooks(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let before = page.position()?.unwrap_or(Uuid::max());
    let mut conn = app.db.read(&consistency).await?;
    let rows = queries::list_page(&mut conn, before, page.fetch_limit()).await?;
    Page::<EndpointResponse>::new(rows, page.limit, |row: &Endpoint| row.id).into_response(&uri)
}

/// Have events sent to an address
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)), request_body = CreateEndpoint,
    responses((status = 201, body = EndpointWithSecret), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create_webhook(
    State(app): State<AppState>,
    _: Admin,
    input: Idempotent<CreateEndpoint>,
) -> Result<Response, ApiError> {
    let reply = service::create(&app, input.claim(), &input.body).await?;
    Ok(reply.into_response())
}

/// A webhook
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "webhooks", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EndpointResponse), (status = 304),
        (status = 404, body = Problem)))]
pub(super) async fn get_webhook(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = app.db.read(&consistency).await?;
    let endpoint = queries::find(&mut conn, id).await?;
    Ok(respond(endpoint.ok_or_else(ApiError::not_found)?, &headers))
}

/// Change, disable or enable a webhook
#[utoipa::path(patch, path = "/v1/webhooks/{id}", tag = "webhooks", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    request_body = UpdateEndpoint,
    responses((status = 200, body = EndpointResponse), (status = 404, body = Problem),
        (status = 412, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn update_webhook(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    json::Json(input): json::Json<UpdateEndpoint>,
) -> Result<Response, ApiError> {
    let endpoint = service::update(&app, id, &if_match, &input).await?;
    Ok(respond(endpoint, &HeaderMap::new()))
}

/// Delete a webhook
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete_webhook(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode, ApiError> {
    service::delete(&app, id, &if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace the secret; the old one signs as well for 24 hours
#[utoipa::path(post, path = "/v1/webhooks/{id}/rotate-secret", tag = "webhooks",
    security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = EndpointWithSecret), (status = 404, body = Problem)))]
pub(super) async fn rotate_webhook_secret(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::rotate_secret(&app, input.claim(), id).await?;
    Ok(reply.into_response())
}

/// Send a test event
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", tag = "webhooks", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = DeliveryResponse), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn test_webhook(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::test(&app, input.claim(), id).await?;
    Ok(reply.into_response())
}

/// What a webhook was sent in the last 30 days, newest event first
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks",
    security(("token" = [])), params(("id" = Uuid, Path), DeliveryFilter, PageParams),
    responses((status = 200, body = Page<DeliveryResponse>), (status = 404, body = Problem)))]
pub(super) async fn list_webhook_deliveries(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    Path(id): Path<Uuid>,
    Query(filter): Query<DeliveryFilter>,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let before = page.position()?.unwrap_or(Uuid::max());
    let mut conn = app.db.read(&consistency).await?;
    queries::find(&mut conn, id).await?.ok_or_else(ApiError::not_found)?;
    let limit = page.fetch_limit();
    let rows = deliveries::queries::list_page(&mut conn, id, filter.state, before, limit).await?;
    let page = Page::<DeliveryResponse>::new(rows, page.limit, |last: &Delivery| last.event_id);
    page.into_response(&uri)
}

/// Deliver again
#[utoipa::path(post, path = "/v1/webhooks/{id}/deliveries/{delivery_id}/redeliver",
    tag = "webhooks", security(("token" = [])),
    params(("id" = Uuid, Path), ("delivery_id" = Uuid, Path),
        ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = DeliveryResponse), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn redeliver_webhook(
    State(app): State<AppState>,
    _: Admin,
    Path((id, delivery_id)): Path<(Uuid, Uuid)>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::redeliver(&app, input.claim(), id, delivery_id).await?;
    Ok(reply.into_response())
}

fn respond(endpoint: Endpoint, headers: &HeaderMap) -> Response {
    let etag = etag::of_version(endpoint.version);
    let head = [(header::ETAG, etag.clone())];
    if etag::matches_none(headers, &etag) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, Json(EndpointResponse::from(endpoint))).into_response()
}
