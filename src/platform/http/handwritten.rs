//! Problem documents written straight to a connection, where there was no request that a router
//! could have answered.

use std::{sync::Arc, time::Instant};

use axum::response::IntoResponse;
use http::StatusCode;
use http_body_util::BodyExt;
use uuid::Uuid;

use super::error::ApiError;
use crate::platform::context::Context;

/// 408 for a head that did not arrive in time.
pub(super) fn head_timeout() -> ApiError {
    let detail = "The head of the request took too long to arrive.";
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "head_timeout", detail)
}

/// For a head that cannot be read: 400, 414 or 431.
pub(super) fn unreadable(status: StatusCode) -> ApiError {
    let (code, detail) = match status {
        StatusCode::URI_TOO_LONG => ("uri_too_long", "The address is too long."),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("headers_too_large", "The headers are too large.")
        }
        _ => ("malformed_request", "What came is no HTTP/1.1 request."),
    };
    ApiError::new(status, code, detail)
}

/// 503 for one connection too many.
pub(super) fn too_many_connections() -> ApiError {
    ApiError::overloaded("Too many connections; try again shortly.")
}

/// The whole answer, byte for byte. It ends the connection.
pub(super) async fn written(error: ApiError) -> Vec<u8> {
    let request_id = Uuid::now_v7().to_string();
    let context = Arc::new(Context::new(request_id.clone(), None, Instant::now()));
    let (head, body) = context.scope(async { error.into_response().into_parts() }).await;
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut bytes = format!(
        "HTTP/1.1 {}\r\nx-request-id: {request_id}\r\nconnection: close\r\ncontent-length: {}\r\n",
        head.status,
        body.len(),
    )
    .into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}
