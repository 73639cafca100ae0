//! The integration tests: real servers, started by `cargo lab test`, and the service in front of
//! them. One binary, so that it links once and all tests share what is costly.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod support;

mod auth;
mod catalogue;
mod errors;
mod failure;
mod idempotency;
mod limits;
mod operations;
mod orders;
mod plans;
mod products;
mod replay;
mod scale;
mod sessions;
mod shutdown;
mod tidy;
mod users;
