//! The integration tests: real servers, started by `cargo lab test`, and the service in front of
//! them. One binary, so that it links once and all tests share what is costly.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::large_futures,
    clippy::unwrap_used,
    reason = "a test binary exports nothing, and its way to report an error is to panic"
)]

mod support;

mod admin;
mod audit;
mod audit_servers;
mod auth;
mod autoscale;
mod cache;
mod catalogue;
mod cli;
mod commit;
mod consul;
mod errors;
mod failover;
mod failure;
mod faults;
mod fleet;
mod hostile;
mod idempotency;
mod job_faults;
mod job_plans;
mod job_processes;
mod job_rows;
mod jobs;
mod limits;
mod locks;
mod mail;
mod matrix;
mod matrix_api;
mod matrix_own_writes;
mod matrix_postgres;
mod matrix_redis;
mod operations;
mod orders;
mod overload;
mod payments;
mod payments_races;
mod plan;
mod plans;
mod pool;
mod products;
mod redis_cluster;
mod relay;
mod replay;
mod reports;
mod rolling;
mod routing;
mod scale;
mod sessions;
mod ship;
mod ship_numbers;
mod shutdown;
mod storm;
mod streams;
mod synchronous;
mod tidy;
mod trails;
mod upkeep;
mod uploads;
mod uploads_faults;
mod uploads_memory;
mod uploads_pictures;
mod uploads_streamed;
mod uploads_sweep;
mod users;
mod webhooks;
mod webhooks_crowd;
mod webhooks_delivery;
mod webhooks_faults;
mod webhooks_locks;
mod webhooks_reach;
