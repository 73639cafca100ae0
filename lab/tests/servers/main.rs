//! The servers as the lab configures them, for real. `cargo lab test` installs what they need.

mod nginx;
mod postgres;
mod scratch;
