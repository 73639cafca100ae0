//! HTTP: what every route shares.
//!
//! Reading order: `server` accepts, `connection` serves, `layers` is the stack around all routes,
//! `admission` and `gate` stand before `/v1`, then the extractors (`visitor`, `json`, `params`,
//! `idempotent`, `etag`,
//! `pagination`), and `error`, the one error that leaves the process.

pub mod accept;
pub mod admission;
pub mod client_ip;
pub mod connection;
pub mod connections;
pub mod docs;
pub mod error;
pub mod etag;
pub mod file;
pub mod gate;
mod handwritten;
pub mod idempotent;
pub mod json;
pub mod layers;
pub mod limits;
mod muted;
pub mod ops;
pub mod pagination;
pub mod params;
mod route_metrics;
pub mod server;
pub mod visitor;
