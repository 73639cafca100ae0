//! The `Idempotency-Key` of a `POST`, together with the body that it belongs to.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, header};
use serde::{Deserialize, de::DeserializeOwned};

use super::{error::ApiError, etag::header_value, json, visitor::User};
use crate::platform::idempotency::{Claim, Reply};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// As the IETF draft has it, and most services in practice.
const MAX_KEY_LENGTH: usize = 255;

/// A body with the claim that its key makes, if there is one. No body counts as `{}`.
pub struct Idempotent<T> {
    claim: Option<Claim>,
    pub body: T,
}

/// The body of a `POST` that needs none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoBody {}

impl<T> Idempotent<T> {
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// # Errors
    /// 400 when the client sent no key.
    pub fn required_claim(&self) -> Result<&Claim, ApiError> {
        self.claim.as_ref().ok_or_else(|| {
            ApiError::bad_request(
                "idempotency_key_missing",
                "Send an `Idempotency-Key`: a text of your choice, new for every new request and \
                 the same when you repeat one.",
            )
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Idempotent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let User(principal) = User::from_request_parts(&mut parts, state).await?;
        let key = parts.headers.get(&IDEMPOTENCY_KEY).map(parse_key).transpose()?;
        let bytes = json::read(&parts, body).await?;
        let body = if bytes.is_empty() {
            json::parse(b"{}")?
        } else {
            json::check_content_type(&parts.headers)?;
            json::parse(&bytes)?
        };
        let claim = key.map(|key| {
            let path = parts.uri.path();
            Claim::new(principal.user_id, parts.method.as_str(), path, &key, &bytes)
        });
        Ok(Self { claim, body })
    }
}

/// 1 to 255 visible characters, quoted (as the draft wants) or not (as most clients do).
fn parse_key(value: &HeaderValue) -> Result<String, ApiError> {
    let text = value.to_str().unwrap_or_default();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_visible = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if key.is_empty() || key.len() > MAX_KEY_LENGTH || !is_visible {
        return Err(ApiError::bad_request(
            "idempotency_key_invalid",
            format!("An `Idempotency-Key` has 1 to {MAX_KEY_LENGTH} visible ASCII characters."),
        ));
    }
    Ok(key.to_owned())
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(location) = self.location {
            headers.insert(header::LOCATION, header_value(&location));
        }
        if let Some(etag) = self.etag {
            headers.insert(header::ETAG, header_value(&etag));
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_keys_quoted_or_not() {
        let parse = |key: &str| parse_key(&HeaderValue::from_str(key).unwrap()).ok();
        assert_eq!(parse("abc").as_deref(), Some("abc"));
        assert_eq!(parse("\"abc\"").as_deref(), Some("abc"));
        for bad in ["", "\"\"", &"k".repeat(256), "a\tb"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert!(parse(&"k".repeat(255)).is_some());
    }
}
