//! Rate limits as clients see them: the headers of every answer, 429, and `GET /v1/rate-limit`.

use std::cell::RefCell;

use axum::{Json, extract::FromRequestParts};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};
use serde::Serialize;
use utoipa::ToSchema;

use super::{error::ApiError, etag::header_value, gate::Policies, visitor::Visitor};
use crate::platform::{
    rate_limit::{Decision, Policy},
    sessions::user_tag,
};

/// Asking what is left must not cost any of it.
pub const RATE_LIMIT_PATH: &str = "/v1/rate-limit";

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Every limit of the caller.
#[derive(Debug, Serialize, ToSchema)]
pub struct RateLimitList {
    pub data: Vec<RateLimitResponse>,
}

/// The state of one limit.
#[derive(Debug, Serialize, ToSchema)]
pub struct RateLimitResponse {
    /// `default` for reads, `write` for whatever may change something.
    #[schema(example = "default")]
    pub policy: &'static str,
    /// Requests per window.
    pub quota: u32,
    pub window_seconds: u64,
    /// Requests that could be made at once now.
    pub remaining: u32,
    /// Seconds until the whole quota is there again.
    pub reset_seconds: u64,
}

impl From<Decision> for RateLimitResponse {
    fn from(decision: Decision) -> Self {
        Self {
            policy: decision.policy.name,
            quota: decision.policy.quota,
            window_seconds: decision.policy.window.as_secs(),
            remaining: decision.remaining,
            reset_seconds: whole_seconds(&decision),
        }
    }
}

/// What is left of the rate limits
#[utoipa::path(get, path = RATE_LIMIT_PATH, tag = "operations",
    responses((status = 200, body = RateLimitList)))]
pub async fn get_rate_limit(Limits(decisions): Limits) -> Json<RateLimitList> {
    Json(RateLimitList { data: decisions.into_iter().map(RateLimitResponse::from).collect() })
}

/// The state of every limit of this visitor, looked at without spending.
pub struct Limits([Decision; 2]);

impl<S: Sync> FromRequestParts<S> for Limits {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let visitor = Visitor::of(parts)?;
        let (limiter, Policies { write, .. }) = (&visitor.gate.limiter, visitor.gate.policies);
        let write = match &visitor.principal {
            Some(principal) => limiter.peek(write, user_tag(principal.user_id)).await,
            None => limiter.peek(write, visitor.address_bucket()).await,
        };
        Ok(Self([visitor.decision, write]))
    }
}

/// Says what is left, unless the answer already speaks of a limit of its own.
pub(super) fn write_headers(headers: &mut HeaderMap, decision: &Decision) {
    if headers.contains_key(RATE_LIMIT) {
        return;
    }
    let (name, remaining) = (decision.policy.name, decision.remaining);
    let state = format!("\"{name}\";r={remaining};t={}", whole_seconds(decision));
    headers.insert(RATE_LIMIT, header_value(&state));
    headers.insert(RATE_LIMIT_POLICY, policy_header(&decision.policy));
}

/// Few policies and many answers: each is written once.
fn policy_header(policy: &Policy) -> HeaderValue {
    thread_local! {
        static WRITTEN: RefCell<Vec<(Policy, HeaderValue)>> = const { RefCell::new(Vec::new()) };
    }
    WRITTEN.with_borrow_mut(|written| {
        if let Some((_, header)) = written.iter().find(|(other, _)| other == policy) {
            return header.clone();
        }
        let (name, quota, window) = (policy.name, policy.quota, policy.window.as_secs());
        let header = header_value(&format!("\"{name}\";q={quota};w={window}"));
        written.push((*policy, header.clone()));
        header
    })
}

/// 429 for a decision that was a refusal.
pub fn too_many_requests(decision: &Decision) -> ApiError {
    ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        "quota_exceeded",
        format!(
            "The limit is {} requests in {} s; `Retry-After` says when to come back.",
            decision.policy.quota,
            decision.policy.window.as_secs(),
        ),
    )
    .limit(decision)
}

/// Rounded up: whoever comes back early is refused again.
fn whole_seconds(decision: &Decision) -> u64 {
    decision.reset.as_secs() + u64::from(decision.reset.subsec_nanos() > 0)
}
