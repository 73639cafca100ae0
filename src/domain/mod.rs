//! The shop: everything a fork replaces.
//!
//! A resource is a folder: `mod.rs` (documentation, routes, what other resources may use),
//! `model.rs` (parsed input, rows, answers), `handlers.rs`, `queries.rs`, and `service.rs` where
//! a use case takes more than one statement. `products` is the one to copy.
//!
//! A resource uses another only through its `mod.rs`, and only one that stands above it in
//! [`routes`]; the other direction goes by event.

pub mod auth;
pub mod orders;
pub mod products;
pub mod users;

use utoipa_axum::router::OpenApiRouter;

use crate::state::AppState;

/// The routes of every resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(users::routes())
        .merge(auth::routes())
        .merge(products::routes())
        .merge(orders::routes())
}
