//! Orders: placed once, paid, shipped, completed or cancelled, with a trail of events.
//!
//! An order, its lines, the stock it takes, its event and the answer to its `Idempotency-Key`
//! are written by one transaction (`service::place`).

mod handlers;
mod jobs;
mod model;
mod queries;
mod service;
mod status;
mod stream;
mod verify;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::jobs::work;
pub use self::{
    model::Bill,
    queries::find_unpaid,
    service::{advance, mark_paid, settle},
    status::Status,
    verify::{Verified, verify},
};
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::list_orders, handlers::create_order))
        .routes(routes!(handlers::get_order))
        .routes(routes!(handlers::cancel_order))
        .routes(routes!(handlers::ship_order))
        .routes(routes!(handlers::complete_order))
        .routes(routes!(handlers::list_order_events))
        .routes(routes!(stream::stream_events))
}
