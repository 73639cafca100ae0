//! For people: the start page, the browsable documentation and the OpenAPI document. All of it
//! is compiled in and works offline, and is made ready once: a request copies nothing.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use anyhow::anyhow;
use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use utoipa::openapi::OpenApi;

use super::{
    error::ApiError,
    etag::{header_value, matches_none},
};

const START_PAGE: &str = include_str!("start_page.html");

/// The documentation page runs its own scripts and styles, inline styles included, and calls
/// this API.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; frame-ancestors 'none'";
const START_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// A deployment is seen five minutes later at the latest; after that the entity tag saves the
/// megabyte of scripts.
const CACHING: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The part of Swagger UI that the page refers to. The rest is for developers of Swagger UI.
const FILES: [&str; 8] = [
    "index.html",
    "index.css",
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
];

/// Something that is the same for everybody until the next deployment.
struct Asset {
    bytes: Bytes,
    content_type: HeaderValue,
    policy: HeaderValue,
    etag: String,
}

struct Docs {
    start: Asset,
    openapi: Asset,
    files: HashMap<&'static str, Asset>,
}

/// # Errors
/// The document cannot be serialised, or a file is not there: a bug.
pub fn router(openapi: &OpenApi) -> anyhow::Result<Router> {
    let config = Arc::new(utoipa_swagger_ui::Config::new(["/openapi.json"]));
    let file = |name| {
        let found = utoipa_swagger_ui::serve(name, config.clone()).map_err(|e| anyhow!("{e}"))?;
        let file = found.ok_or_else(|| anyhow!("{name} is not compiled in"))?;
        let bytes = match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        anyhow::Ok((name, Asset::new(bytes, &file.content_type, DOCS_POLICY)))
    };
    let page = START_PAGE.replace("{{version}}", env!("CARGO_PKG_VERSION"));
    let document = serde_json::to_vec(openapi)?;
    let docs = Docs {
        start: Asset::new(page.into(), "text/html; charset=utf-8", START_POLICY),
        openapi: Asset::new(document.into(), "application/json", START_POLICY),
        files: FILES.into_iter().map(file).collect::<Result<_, _>>()?,
    };
    Ok(Router::new()
        .route("/", get(start))
        .route("/openapi.json", get(document_of))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(index))
        .route("/docs/{*file}", get(file_of))
        .with_state(Arc::new(docs)))
}

type Shared = State<Arc<Docs>>;

/// A page for whoever opens the address in a browser, JSON for `Accept: application/json`.
async fn start(State(docs): Shared, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let mut response = if accept.is_some_and(|accept| accept.contains("application/json")) {
        Json(json!({
            "name": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "docs": "/docs/",
            "openapi": "/openapi.json",
            "health": "/health/ready",
        }))
        .into_response()
    } else {
        docs.start.answer(&headers)
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn document_of(State(docs): Shared, headers: HeaderMap) -> Response {
    docs.openapi.answer(&headers)
}

async fn index(State(docs): Shared, headers: HeaderMap) -> Result<Response, ApiError> {
    docs.file("index.html", &headers)
}

async fn file_of(
    State(docs): Shared,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    docs.file(&file, &headers)
}

impl Docs {
    fn file(&self, name: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
        let file = self.files.get(name).ok_or_else(ApiError::not_found)?;
        Ok(file.answer(headers))
    }
}

impl Asset {
    fn new(bytes: Bytes, content_type: &str, policy: &'static str) -> Self {
        let hash = digest(&SHA256, &bytes);
        Self {
            // Sixteen bytes of it tell apart what was ever deployed.
            etag: format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16])),
            bytes,
            content_type: header_value(content_type),
            policy: HeaderValue::from_static(policy),
        }
    }

    /// 304 to whoever has it already.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if matches_none(headers, &self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            self.bytes.clone().into_response()
        };
        let answer = response.headers_mut();
        answer.insert(header::ETAG, header_value(&self.etag));
        answer.insert(header::CACHE_CONTROL, CACHING);
        answer.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        answer.insert(header::CONTENT_TYPE, self.content_type.clone());
        response
    }
}
