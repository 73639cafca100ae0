//! Routes of products.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use uuid::Uuid;

use super::{
    cached::{self, Question},
    model::{
        AdjustStock, CatalogueFilter, CreateProduct, ProductResponse, Sort, StockResponse,
        UpdateProduct,
    },
    queries::{self, Position},
    service,
};
use crate::{
    platform::{
        cache::Status,
        db::Consistency,
        http::{
            error::{ApiError, Problem},
            etag::{self, IfMatch},
            idempotent::Idempotent,
            json,
            pagination::{self, Page, PageParams},
            params::{Path, Query},
            visitor::Admin,
        },
    },
    state::AppState,
};

/// How long a shared cache may answer: short, since nobody can take it back.
const PUBLIC: HeaderValue =
    HeaderValue::from_static("public, max-age=5, stale-while-revalidate=30");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The catalogue
#[utoipa::path(get, path = "/v1/products", tag = "products", params(CatalogueFilter, PageParams),
    responses((status = 200, body = Page<ProductResponse>), (status = 422, body = Problem)))]
pub(super) async fn list_products(
    State(app): State<AppState>,
    Query(filter): Query<CatalogueFilter>,
    Query(page): Query<PageParams>,
    uri: Uri,
    consistency: Consistency,
) -> Result<Response, ApiError> {
    let from = match page.position::<(Sort, i64, Uuid)>()? {
        Some((sort, amount, id)) if sort == filter.sort => Position { amount, id },
        Some(_) => return Err(pagination::foreign_cursor()),
        None => Position::start(filter.sort),
    };
    let words = filter.q.as_ref().map_or("", |q| q.as_str()).to_owned();
    let question = Question { words, sort: filter.sort, from, limit: page.limit };
    let found = cached::page(&app, consistency, question).await?;
    let entry = found.entry.ok_or_else(ApiError::not_found)?;
    let next = (!entry.meta.is_empty()).then(|| pagination::next_link(&uri, &entry.meta));
    let mut response = pagination::respond(entry.body, next);
    mark_public(response.headers_mut(), found.status);
    Ok(response)
}

/// A product
#[utoipa::path(get, path = "/v1/products/{id}", tag = "products", params(("id" = Uuid, Path)),
    responses((status = 200, body = ProductResponse), (status = 304), (status = 404, body = Problem)))]
pub(super) async fn get_product(
    State(app): State<AppState>,
    Path(id): Path<Uuid>,
    consistency: Consistency,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let found = cached::product(&app, consistency, id).await?;
    let entry = found.entry.ok_or_else(ApiError::not_found)?;
    let mut response = json::serialised(entry.body);
    if etag::matches_none(&headers, &entry.meta) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    let head = response.headers_mut();
    head.insert(header::ETAG, etag::header_value(&entry.meta));
    mark_public(head, found.status);
    Ok(response)
}

/// Add a product
#[utoipa::path(post, path = "/v1/products", tag = "products", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)), request_body = CreateProduct,
    responses((status = 201, body = ProductResponse), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn create_product(
    State(app): State<AppState>,
    _: Admin,
    input: Idempotent<CreateProduct>,
) -> Result<Response, ApiError> {
    let reply = service::create(&app, input.claim(), &input.body).await?;
    Ok(reply.into_response())
}

/// Change a product
#[utoipa::path(patch, path = "/v1/products/{id}", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)), request_body = UpdateProduct,
    responses((status = 200, body = ProductResponse), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn update_product(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    json::Json(input): json::Json<UpdateProduct>,
) -> Result<Response, ApiError> {
    let product = service::update(&app, id, &if_match, &input).await?;
    let etag = [(header::ETAG, etag::of_version(product.version))];
    Ok((etag, Json(ProductResponse::from(product))).into_response())
}

/// Take a product out of the catalogue
#[utoipa::path(delete, path = "/v1/products/{id}", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete_product(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode, ApiError> {
    service::archive(&app, id, &if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The exact stock
#[utoipa::path(get, path = "/v1/products/{id}/stock", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = StockResponse), (status = 404, body = Problem)))]
pub(super) async fn get_stock(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let mut conn = app.db.read(&Consistency::Latest).await?;
    let stock = queries::find_stock(&mut conn, id).await?;
    let stock = stock.ok_or_else(ApiError::not_found)?;
    let body = Json(StockResponse { product_id: id, stock });
    Ok(body.into_response())
}

/// Add to or take from the stock
#[utoipa::path(post, path = "/v1/products/{id}/stock", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body = AdjustStock,
    responses((status = 200, body = StockResponse), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(super) async fn adjust_stock(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<AdjustStock>,
) -> Result<Response, ApiError> {
    let reply = service::adjust_stock(&app, input.claim(), id, &input.body).await?;
    Ok(reply.into_response())
}

fn mark_public(headers: &mut HeaderMap, status: Status) {
    headers.insert(header::CACHE_CONTROL, PUBLIC);
    headers.insert(CACHE_STATUS, status.header());
}
