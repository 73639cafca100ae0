//! JSON bodies: those that come in are bounded in size, depth and time, and refused with a pointer
//! to what is wrong.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    admission::ClientWait,
    error::{ApiError, FieldError},
};
use crate::platform::context;

/// A JSON body holds names and numbers; files go to S3.
const MAX_BYTES: usize = 64 * 1024;

/// Deeper than anything we accept, shallower than what would cost a parser its stack.
const MAX_DEPTH: usize = 32;

/// How long a body may take. One this small that takes longer is a client that holds a
/// connection on purpose. Set for every request by [`super::layers`].
#[derive(Clone, Copy)]
pub(super) struct BodyTimeout(pub(super) Duration);

impl BodyTimeout {
    /// Outside of the layers, as in a test of one route.
    pub(super) const DEFAULT: Self = Self(Duration::from_secs(30));
}

/// How long before the request's deadline a body is given up. At the deadline itself the client
/// would be told that we were slow.
const TIME_TO_ANSWER: Duration = Duration::from_millis(50);

/// A JSON body, parsed into `T`.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_content_type(&parts.headers)?;
        let bytes = read(&parts, body).await?;
        parse(&bytes).map(Self)
    }
}

/// An answer that is JSON already.
pub fn serialised(body: Bytes) -> Response {
    // Room for the headers that layers add as well: they would make it grow twice.
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(Body::from(body));
    *response.headers_mut() = headers;
    response
}

/// The whole body, if it is within the bounds.
pub(super) async fn read(parts: &Parts, body: Body) -> Result<Bytes, ApiError> {
    let announced = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(too_large());
    }
    let BodyTimeout(limit) = parts.extensions.get().copied().unwrap_or(BodyTimeout::DEFAULT);
    let limit = context::remaining(limit).saturating_sub(TIME_TO_ANSWER);
    let body = Limited::new(body, MAX_BYTES).collect();
    let body = async {
        match parts.extensions.get::<ClientWait>() {
            Some(wait) => wait.during(body).await,
            None => body.await,
        }
    };
    let collected = timeout(limit, body).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => {
            Err(ApiError::bad_request("incomplete_body", "The body ended before it was complete."))
        }
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The body took too long to arrive.",
        )),
    }
}

/// # Errors
/// 415 unless the body is said to be JSON.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Send the body as `Content-Type: application/json`.",
        )),
    }
}

/// # Errors
/// 400 for what is not JSON, 422 for JSON that is not a `T`.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if depth(bytes) > MAX_DEPTH {
        return Err(ApiError::bad_request(
            "json_too_deep",
            format!("The body is nested more than {MAX_DEPTH} levels deep."),
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // A field can be wrong before the text stops being JSON. That it is none counts more.
        match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(_) => refusal(&pointer(error.path()), error.inner()),
            Err(malformed) => refusal("", &malformed),
        }
    })?;
    deserializer.end().map_err(|error| refusal("", &error))?;
    Ok(value)
}

fn refusal(pointer: &str, error: &serde_json::Error) -> ApiError {
    if error.is_data() {
        ApiError::validation(vec![FieldError {
            pointer: pointer.to_owned(),
            code: "invalid",
            detail: without_position(&error.to_string()),
        }])
    } else {
        ApiError::bad_request("malformed_json", format!("The body is not JSON: {error}."))
    }
}

/// serde_json ends its messages with a position, which the pointer says better.
fn without_position(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut pointer, segment| {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => pointer.push_str(variant),
            Segment::Unknown => pointer.push('?'),
        }
        pointer
    })
}

fn too_large() -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("A JSON body may have {} kB.", MAX_BYTES / 1024),
    )
}

/// How deep arrays and objects are nested, without parsing them.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_depth_outside_of_strings() {
        assert_eq!(depth(br#"{"a":[[]],"b":"[[[[\"[["}"#), 3);
        assert_eq!(depth(b"]]]]{"), 1);
        assert_eq!(depth(&[b'['; 100_000]), 100_000);
    }
}
