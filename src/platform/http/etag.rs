//! Strong entity tags made of a row's version, and the preconditions that use them.

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

use super::error::ApiError;

/// The tag of version `version`, quoted as in the header.
pub fn of_version(version: i32) -> String {
    format!("\"{version}\"")
}

/// Whether `If-None-Match` names `etag`: the client has this representation already.
pub fn matches_none(headers: &HeaderMap, etag: &str) -> bool {
    list(headers, &header::IF_NONE_MATCH).any(|tag| {
        // Weak comparison (RFC 9110, 13.1.2).
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The versions that `If-Match` allows to be changed; without the header, any.
pub struct IfMatch(Option<Vec<i32>>);

impl IfMatch {
    /// # Errors
    /// 412 when the current version is not among those the client has seen.
    pub fn check(&self, current: i32) -> Result<(), ApiError> {
        match &self.0 {
            Some(versions) if !versions.contains(&current) => Err(ApiError::precondition_failed()),
            _ => Ok(()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        if !headers.contains_key(header::IF_MATCH)
            || list(headers, &header::IF_MATCH).any(|tag| tag == "*")
        {
            return Ok(Self(None));
        }
        // A weak tag never matches here (strong comparison), nor does one that is not ours.
        let version = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
        Ok(Self(Some(list(headers, &header::IF_MATCH).filter_map(version).collect())))
    }
}

/// A header value; tags and the like are plain ASCII.
pub fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_weakly_for_reads() {
        let mut headers = HeaderMap::new();
        assert!(!matches_none(&headers, "\"3\""));
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"1\", W/\"3\""));
        assert!(matches_none(&headers, "\"3\""));
        assert!(!matches_none(&headers, "\"2\""));
    }
}
