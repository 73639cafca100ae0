//! The headers that tell of a rate limit (IETF draft "RateLimit header fields for HTTP").

use http::{HeaderMap, HeaderName};

use super::etag::header_value;
use crate::platform::rate_limit::Decision;

pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Tells of the policy that decided, and of what is left.
pub(super) fn write(headers: &mut HeaderMap, decision: &Decision) {
    let policy = decision.policy;
    let text = format!("\"{}\";q={};w={}", policy.name, policy.quota, policy.window.as_secs());
    headers.insert(RATE_LIMIT_POLICY, header_value(&text));
    let reset = decision.reset.as_secs_f64().ceil();
    let text = format!("\"{}\";r={};t={reset}", policy.name, decision.remaining);
    headers.insert(RATE_LIMIT, header_value(&text));
}
