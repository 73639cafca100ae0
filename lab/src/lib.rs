//! Shoal's development tool: starts the whole real topology on one machine without Docker, and runs the
//! tests against it.
//!
//! As a program it is `cargo lab`. As a library it gives the integration tests the servers that
//! `cargo lab test` has started ([`topology::Topology`]), and servers of their own to break
//! ([`site::Site`] and one module per server, [`postgres::OwnPostgres`] for replication) or to cut off
//! ([`fault::FaultProxy`]).
//!
//! # Layout
//! - [`commands`]: one file per command.
//! - [`mod@bench`]: what a request costs, for `cargo lab bench`.
//! - [`autoscale`]: Kubernetes' autoscaler over replicas of this machine, for `cargo lab autoscale`.
//! - [`install`]: finds the servers, installs what is missing.
//! - [`site`]: the directory in which servers run; [`topology`]: what runs where, for the tests.
//! - [`postgres`], [`pgbouncer`], [`redis`], [`s3`], [`nginx`], [`api`]: one file per server;
//!   `services` starts those that the API stands on.
//! - [`provider`], [`mail`]: a payment provider and a mail server to try things with; `in_thread` runs them
//!   inside a test.
//! - [`node`]: a Postgres with its PgBouncer; [`postgres::OwnPostgres`]: a primary and replicas for one test.
//! - [`fault`]: the proxy that breaks the way to a server, and what `cargo lab fault` says to the lab.
//! - `page`: what reports look like, and drawings.
//! - `ship`: checks of manifests, images, rules and units, for `cargo lab ship-check`.
//! - [`process`]: start, watch and stop a process; [`ports`]: which port it gets.
//! - [`template`]: fills in the configuration files that the repository ships.
#![allow(
    clippy::disallowed_methods,
    reason = "they are disallowed in the service, whose environment and tasks have one owner each; the lab is a tool"
)]

pub mod account;
pub mod api;
pub mod autoscale;
pub mod bench;
pub mod commands;
pub mod error;
pub mod fault;
pub mod install;
pub mod mail;
pub mod nginx;
pub mod node;
pub mod pgbouncer;
pub mod picture;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod progress;
pub mod provider;
pub mod redis;
pub mod s3;
pub mod site;
pub mod template;
pub mod topology;

mod cargo;
mod demo;
mod in_thread;
mod interrupt;
mod net;
mod page;
mod psql;
mod run;
mod secrets;
mod services;
mod ship;
mod state;

pub use error::{Error, Result};
pub use topology::Topology;
