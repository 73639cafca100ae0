//! The fleet and the work outside of requests, for those who look after them, and the schedules
//! that keep the platform's tables in order. Nothing of the shop: a fork keeps it.

mod fleet;
mod handlers;
mod jobs;
mod service;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::jobs::work;
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(fleet::list_fleet))
        .routes(routes!(handlers::list_queues))
        .routes(routes!(handlers::list_dead_jobs))
        .routes(routes!(handlers::retry_dead_jobs))
        .routes(routes!(handlers::get_job))
        .routes(routes!(handlers::retry_job))
        .routes(routes!(handlers::discard_job))
        .routes(routes!(handlers::pause_queue))
        .routes(routes!(handlers::resume_queue))
}
