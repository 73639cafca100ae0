//! Users: who they are. How they prove it is `auth`.

mod handlers;
mod jobs;
mod model;
mod queries;
mod service;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::jobs::work;
pub use self::{
    model::{Email, Name, NewUser, User, UserResponse},
    queries::{
        find, find_credentials, find_password_hash, insert, lock, lock_password_hash,
        replace_password_hash,
    },
    service::{create_admin, set_avatar},
};
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::get_me, handlers::update_me))
        .routes(routes!(handlers::list_users))
        .routes(routes!(handlers::get_user))
}
