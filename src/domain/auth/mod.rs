//! Proving who one is: registration, log-in, refresh, log-out, sessions, passwords.
//!
//! Tokens, sessions and hashing are the platform's; this is what the routes make of them.

mod handlers;
mod limits;
mod model;
mod service;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::state::AppState;

pub use self::model::Password;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::register))
        .routes(routes!(handlers::login))
        .routes(routes!(handlers::refresh))
        .routes(routes!(handlers::logout))
        .routes(routes!(handlers::list_sessions, handlers::delete_sessions))
        .routes(routes!(handlers::delete_session))
        .routes(routes!(handlers::change_password))
        .routes(routes!(handlers::list_keys))
}
