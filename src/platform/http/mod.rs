//! HTTP: what every route shares.
//!
//! Reading order: `server` accepts, `connection` serves, `layers` is the stack around all routes, `gate`
//! stands before `/v1`, then the extractors (`json`, `params`, `idempotent`, `etag`,
//! `pagination`), and `error`, the one error that leaves the process.

pub mod client_ip;
mod connection;
pub mod docs;
pub mod error;
pub mod etag;
pub mod gate;
pub mod idempotent;
pub mod json;
pub mod layers;
pub mod limits;
pub mod ops;
pub mod pagination;
pub mod params;
mod quota;
mod route_metrics;
pub mod server;
