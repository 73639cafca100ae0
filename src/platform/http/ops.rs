//! Routes for machines and operators: health and metrics. Never authenticated by JWT, never rate
//! limited, never in the access log.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};

use super::error::ApiError;
use crate::platform::{health::Health, jobs::Pulse, metrics::Metrics};

#[derive(Clone)]
struct Ops {
    health: Health,
    metrics: Metrics,
    pulse: Option<Pulse>,
}

/// With the `pulse` of the worker in this process, if there is one.
pub fn router(health: Health, metrics: Metrics, pulse: Option<Pulse>) -> Router {
    Router::new()
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/startup", get(startup))
        .route("/health/ready", get(ready))
        .route("/metrics", get(render_metrics))
        .with_state(Ops { health, metrics, pulse })
}

/// The process runs and answers, and so does its worker; nothing else. A failing dependency must
/// not restart it.
async fn live(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    liveness(ops.pulse.as_ref())
}

fn liveness(pulse: Option<&Pulse>) -> (StatusCode, &'static str) {
    if pulse.is_none_or(Pulse::is_alive) {
        (StatusCode::OK, "live\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the worker has not polled for a while\n")
    }
}

async fn startup(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    if ops.health.is_started() {
        (StatusCode::OK, "started\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn ready(State(ops): State<Ops>) -> Response {
    let status =
        if ops.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ops.health.report().await)).into_response()
}

async fn render_metrics(State(ops): State<Ops>) -> Result<Response, ApiError> {
    let text = ops.metrics.render().map_err(ApiError::internal)?;
    let mut response = text.into_response();
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}
