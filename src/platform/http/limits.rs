//! `GET /v1/rate-limit`: what is left, without spending any of it.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    error::ApiError,
    gate::{Limit, RATE_LIMIT_PATH},
};

/// The state of one limit.
#[derive(Debug, Serialize, ToSchema)]
pub struct RateLimitResponse {
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

/// What is left of the rate limit
#[utoipa::path(get, path = RATE_LIMIT_PATH, tag = "operations",
    responses((status = 200, body = RateLimitResponse)))]
pub async fn get_rate_limit(Limit(decision): Limit) -> Result<Json<RateLimitResponse>, ApiError> {
    Ok(Json(RateLimitResponse {
        policy: decision.policy.name,
        quota: decision.policy.quota,
        window_seconds: decision.policy.window.as_secs(),
        remaining: decision.remaining,
        reset_seconds: decision.reset.as_secs_f64().ceil() as u64,
    }))
}
