//! The platform: everything that knows servers and HTTP, and nothing of the shop. A fork keeps it
//! untouched.
//!
//! # Invariants
//! - It imports only itself and external crates (`tests/it/tidy.rs` holds it to that).
//! - Every remote call has a deadline, every queue a bound.
//! - Postgres is the truth. Whatever is in Redis may be gone at any moment.
//!
//! # Reading order
//! `db` (pools, reads, transactions), `redis`, `cache`, `sessions`, `idempotency`, `events`, `jobs`,
//! `http_client`, `webhooks`, then `http`. The rest is small and stands alone.

pub mod audit;
pub mod bell;
pub mod breaker;
pub mod cache;
pub mod concurrency;
pub mod consistency;
pub mod context;
pub mod db;
pub mod env;
pub mod events;
pub mod fleet;
pub mod health;
pub mod http;
pub mod http_client;
pub mod idempotency;
pub mod images;
pub mod jobs;
pub mod locks;
pub mod mail;
pub mod metrics;
pub mod passwords;
pub mod rate_limit;
pub mod redis;
pub mod remote_api;
pub mod sessions;
pub mod shutdown;
pub mod storage;
pub mod streams;
pub mod telemetry;
pub mod text;
pub mod tokens;
pub mod turns;
pub mod upkeep;
pub mod webhooks;
