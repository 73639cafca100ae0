//! For people: the start page, the browsable documentation and the OpenAPI document. All of it
//! is compiled in and works offline.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use utoipa::openapi::OpenApi;

use super::error::ApiError;

const START_PAGE: &str = include_str!("start_page.html");

/// The documentation page runs its own scripts and styles, inline styles included, and calls
/// this API.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; frame-ancestors 'none'";
const START_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

#[derive(Clone)]
struct Docs {
    openapi: Bytes,
    page: Arc<utoipa_swagger_ui::Config<'static>>,
}

/// # Errors
/// The document cannot be serialised: a bug.
pub fn router(openapi: &OpenApi) -> serde_json::Result<Router> {
    Ok(Router::new()
        .route("/", get(start))
        .route("/openapi.json", get(document))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(index))
        .route("/docs/{*file}", get(file))
        .with_state(Docs {
            openapi: serde_json::to_vec(openapi)?.into(),
            page: Arc::new(utoipa_swagger_ui::Config::new(["/openapi.json"])),
        }))
}

/// A page for whoever opens the address in a browser, JSON for `Accept: application/json`.
async fn start(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("application/json")) {
        return Json(json!({
            "name": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "docs": "/docs/",
            "openapi": "/openapi.json",
            "health": "/health/ready",
        }))
        .into_response();
    }
    let page = START_PAGE.replace("{{version}}", env!("CARGO_PKG_VERSION"));
    with_policy(Html(page), START_POLICY)
}

async fn document(State(docs): State<Docs>) -> Response {
    let mut response = docs.openapi.into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

async fn index(State(docs): State<Docs>) -> Result<Response, ApiError> {
    serve(&docs, "index.html")
}

async fn file(State(docs): State<Docs>, Path(file): Path<String>) -> Result<Response, ApiError> {
    serve(&docs, &file)
}

fn serve(docs: &Docs, file: &str) -> Result<Response, ApiError> {
    let found = utoipa_swagger_ui::serve(file, docs.page.clone())
        .map_err(|error| ApiError::internal(anyhow::anyhow!("{error}")))?;
    let file = found.ok_or_else(ApiError::not_found)?;
    let content_type = [(header::CONTENT_TYPE, file.content_type)];
    Ok(with_policy((content_type, file.bytes.into_owned()), DOCS_POLICY))
}

fn with_policy(page: impl IntoResponse, policy: &'static str) -> Response {
    let mut response = page.into_response();
    let policy = HeaderValue::from_static(policy);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}
