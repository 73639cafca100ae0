//! Routes of orders.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri, header};
use uuid::Uuid;

use super::{
    model::{CreateOrder, Order, OrderEventResponse, OrderFilter, OrderResponse},
    queries, service,
    status::Status,
};
use crate::{
    platform::{
        db::Consistency,
        events,
        http::{
            error::{ApiError, Problem},
            etag,
            idempotent::{Idempotent, NoBody},
            pagination::{Page, PageParams},
            params::{Path, Query},
            visitor::{Admin, User},
        },
        tokens::{Principal, Role},
    },
    state::AppState,
};

/// Place an order
#[utoipa::path(post, path = "/v1/orders", tag = "orders", security(("token" = [])),
    params(("Idempotency-Key" = String, Header)), request_body = CreateOrder,
    responses((status = 201, body = OrderResponse), (status = 400, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create_order(
    State(app): State<AppState>,
    User(principal): User,
    input: Idempotent<CreateOrder>,
) -> Result<Response, ApiError> {
    let claim = input.required_claim()?;
    let reply = service::place(&app, claim, principal.user_id, &input.body).await?;
    Ok(reply.into_response())
}

/// One's orders, newest first; everybody's for an administrator
#[utoipa::path(get, path = "/v1/orders", tag = "orders", security(("token" = [])),
    params(OrderFilter, PageParams),
    responses((status = 200, body = Page<OrderResponse>), (status = 401, body = Problem)))]
pub(super) async fn list_orders(
    State(app): State<AppState>,
    User(principal): User,
    consistency: Consistency,
    Query(filter): Query<OrderFilter>,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let before = page.position()?.unwrap_or(Uuid::max());
    let limit = page.fetch_limit();
    let mut conn = app.db.read(&consistency).await?;
    let owner = owner(&principal);
    let orders = queries::list_page(&mut conn, owner, filter.status, before, limit).await?;
    drop(conn);
    let page = Page::<OrderResponse>::new(orders, page.limit, |last: &Order| last.id);
    page.into_response(&uri)
}

/// An order
#[utoipa::path(get, path = "/v1/orders/{id}", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = OrderResponse), (status = 304), (status = 404, body = Problem)))]
pub(super) async fn get_order(
    State(app): State<AppState>,
    User(principal): User,
    consistency: Consistency,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = app.db.read(&consistency).await?;
    let order = find(&mut conn, id, &principal).await?;
    drop(conn);
    let etag = etag::of_version(order.version);
    let head = [(header::ETAG, etag.clone())];
    if etag::matches_none(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    Ok((head, Json(OrderResponse::from(order))).into_response())
}

/// Cancel one's order
#[utoipa::path(post, path = "/v1/orders/{id}/cancel", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = OrderResponse), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn cancel_order(
    State(app): State<AppState>,
    User(principal): User,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::cancel(&app, input.claim(), principal.user_id, id).await?;
    Ok(reply.into_response())
}

/// Say that a paid order was shipped
#[utoipa::path(post, path = "/v1/orders/{id}/ship", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = OrderResponse), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn ship_order(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::advance(&app, input.claim(), id, Status::Shipped).await?;
    Ok(reply.into_response())
}

/// Say that a shipped order arrived
#[utoipa::path(post, path = "/v1/orders/{id}/complete", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = OrderResponse), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn complete_order(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::advance(&app, input.claim(), id, Status::Completed).await?;
    Ok(reply.into_response())
}

/// The trail of an order, oldest first
#[utoipa::path(get, path = "/v1/orders/{id}/events", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path), PageParams),
    responses((status = 200, body = Page<OrderEventResponse>), (status = 404, body = Problem)))]
pub(super) async fn list_order_events(
    State(app): State<AppState>,
    User(principal): User,
    consistency: Consistency,
    Path(id): Path<Uuid>,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let after = page.position::<i32>()?.unwrap_or(0);
    let mut conn = app.db.read(&consistency).await?;
    find(&mut conn, id, &principal).await?;
    let trail = events::trail(&mut conn, id, after, page.fetch_limit()).await?;
    drop(conn);
    let page =
        Page::<OrderEventResponse>::new(trail, page.limit, |last: &events::Event| last.sequence);
    page.into_response(&uri)
}

async fn find(
    conn: &mut crate::platform::db::Conn,
    id: Uuid,
    principal: &Arc<Principal>,
) -> Result<Order, ApiError> {
    let order = queries::find(conn, id, owner(principal)).await?;
    order.ok_or_else(ApiError::not_found)
}

/// Whose orders a principal may see: its own, or everybody's.
fn owner(principal: &Principal) -> Option<Uuid> {
    match principal.role {
        Role::Customer => Some(principal.user_id),
        Role::Admin => None,
    }
}
