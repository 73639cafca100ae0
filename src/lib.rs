//! Shoal: a horizontally scalable, stateless HTTP API.
//!
//! # Layout
//! - [`platform`]: servers and HTTP; knows nothing of the shop. A fork keeps it.
//! - [`domain`]: the shop. A fork empties it.
//! - [`config`]: the environment, read once. [`state`]: what handlers share.
//! - [`app`]: which routes exist, and how the process runs. [`cli`]: the subcommands.
//!
//! Imports go one way: `main → cli → app → domain → state → config → platform`.
//!
//! # Reading order
//! [`app`], then one resource (`domain/products`), then `platform/http`, then `platform/db`.

#![warn(clippy::print_stdout, reason = "output belongs to the log, or to `cli::print`")]

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod platform;
pub mod state;
