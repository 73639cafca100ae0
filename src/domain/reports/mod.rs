//! Reports: what was sold, from a read model that the events of orders feed.
//!
//! Sales count on the day (UTC) their order was placed, and are taken back when it is cancelled
//! or its payment fails. The model lags behind the orders by as long as events take to be passed
//! on (`reports_lag_seconds`); `rebuild.rs` makes it anew from all events.

mod csv;
mod handlers;
mod jobs;
mod model;
mod queries;
mod rebuild;

use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::rebuild::{Mode, Rebuilt, rebuild};
use crate::{platform::jobs::Registry, state::AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::get_sales))
        .routes(routes!(handlers::get_top_products))
}

pub(super) fn work() -> Registry<AppState> {
    Registry::new().once_per_batch(jobs::AddToSales::of)
}
