//! Webhooks: administrators have events sent to addresses of their own (Standard Webhooks 1.0.0).
//!
//! An event becomes one delivery for each endpoint that asked for it, with an id that stays the
//! same whatever happens, and a job that delivers it. Reading order: `model.rs`, `service.rs`,
//! `deliveries/jobs.rs`.

mod deliveries;
mod handlers;
mod model;
mod queries;
mod service;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::deliveries::work;
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::list_webhooks, handlers::create_webhook))
        .routes(routes!(handlers::get_webhook, handlers::update_webhook, handlers::delete_webhook))
        .routes(routes!(handlers::rotate_webhook_secret))
        .routes(routes!(handlers::test_webhook))
        .routes(routes!(handlers::list_webhook_deliveries))
        .routes(routes!(handlers::redeliver_webhook))
}
