//! The servers as the lab configures them, for real. `cargo lab test` installs what they need.
#![allow(
    clippy::expect_used,
    reason = "the lints allow it in test functions, and these files are all test"
)]

mod fault;
mod nginx;
mod own_postgres;
mod postgres;
mod redis_cluster;
mod s3;
mod scratch;
