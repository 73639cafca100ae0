//! Uploads: files that go straight to S3 and come back safe.
//!
//! ```text
//! POST /v1/uploads ──▶ pending ── PUT to S3, by the client ── POST …/complete ──▶ completed
//!                         │                                         └───────────▶ rejected
//!                         └── after 15 minutes: expired
//! ```
//!
//! The client writes to `incoming/{id}`, and may go on doing so for as long as the address that it
//! was given is good. Completing reads what is there **once**, verifies those bytes, and writes
//! those same bytes to `pictures/{sha256}/{id}` or `documents/{sha256}/{id}`, which nobody else
//! can write to. So nothing that is put into `incoming/` later, or meanwhile, is ever served,
//! whatever the S3 server makes of conditional copies.
//!
//! The key names the content and the upload: no two uploads share an object. Sharing would save
//! little, and a deletion would have to know of every completion that is about to use the same
//! bytes. As it is, a key is written by one upload, deleted once nobody needs that upload, and
//! never used again: deleting it once more, late, harms nobody.
//!
//! A row goes last: the sweep deletes the objects first. What a process that died has written
//! under a key that no row tells of, is found by listing (`sweep.rs`).
//!
//! A small client may send a picture to the API itself, in the request that sets it (`receive.rs`).
//! It is streamed to `incoming/{id}` as well, and goes the same way from there.
//!
//! No transaction is open while S3 is asked.
//!
//! Reading order: this file, `service.rs`, `verify.rs`, `receive.rs`, `pictures.rs`, `keys.rs`, `sweep.rs`.

mod handlers;
mod jobs;
mod keys;
mod model;
mod pictures;
mod queries;
mod receive;
mod service;
mod sweep;
mod variants;
mod verify;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::jobs::work;
pub use self::sweep::{Swept, sweep, sweep_orphans};
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::create_upload))
        .routes(routes!(handlers::get_upload, handlers::delete_upload))
        .routes(routes!(handlers::complete_upload))
        .routes(routes!(handlers::get_file))
        .routes(routes!(handlers::set_avatar, handlers::delete_avatar))
        .routes(routes!(handlers::set_image, handlers::delete_image))
}
