//! Payments: an order that was placed is charged for, by a provider, outside of the request.
//!
//! One payment per order, whatever is slow, lost, repeated or killed on the way: its row has the
//! order's id as its key, and the provider is given the same as its idempotency key. So a charge
//! can be asked for again until there is a word on it.
//!
//! ```text
//! order.created ──▶ payments.charge: charging ──▶ captured (order.paid)
//!                                       │   └───▶ declined (order.payment_failed, stock returned)
//! order.cancelled ─▶ payments.void:  voiding ───▶ voided   (whatever was, or will be, charged)
//! ```
//!
//! An order may be cancelled at any moment, also while it is charged: the order's row decides
//! which was first, and what was taken for an order that is not to be is given back by
//! `payments.void`. While the provider is away orders stay `pending`, and payments `charging`.
//!
//! Reading order: this file, `jobs.rs`, `service.rs`, `provider.rs`.

mod handlers;
mod jobs;
mod model;
mod provider;
mod queries;
mod service;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::jobs::work;
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(handlers::get_payment))
}
