//! Finds the servers on this machine, and installs those that are missing.

mod apt;
mod deb_source;
mod find;
mod pgbouncer;
mod ship;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use find::find;
pub(crate) use find::postgres_major;
pub use ship::ShipTools;
pub(crate) use ship::{Found, Kustomize, PythonTools};

use crate::account::is_root;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The servers found on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Binaries {
    /// The directory of `postgres`, `initdb`, `psql` and their like.
    pub postgres_dir: PathBuf,
    /// PgBouncer 1.21 or newer.
    pub pgbouncer: PathBuf,
    /// Redis.
    pub redis_server: PathBuf,
    /// nginx.
    pub nginx: PathBuf,
}

/// A server that can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Postgres 15 or newer.
    Postgres,
    /// PgBouncer 1.21 or newer.
    PgBouncer,
    /// Redis.
    Redis,
    /// nginx.
    Nginx,
}

impl Tool {
    /// The Debian package that has it.
    fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::PgBouncer => "pgbouncer",
            Self::Redis => "redis-server",
            Self::Nginx => "nginx",
        }
    }
}

/// `wrk`, which only the bench needs; installs it when root, and otherwise says what to type.
pub(crate) fn find_or_install_wrk(progress: &Progress) -> Result<PathBuf> {
    if let Some(wrk) = find::on_path("wrk") {
        return Ok(wrk);
    }
    let typed = "apt-get install --no-install-recommends wrk";
    if !is_root() {
        return Err(Error::new("the load generator `wrk` is missing")
            .way_out(format!("sudo {typed}"))
            .exit_code(2));
    }
    apt::install(&["wrk"], progress).map_err(|error| {
        Error::new(format!("the load generator `wrk` cannot be installed: {error}"))
            .way_out(format!("get `wrk` onto the PATH by other means; here it was `{typed}`"))
            .exit_code(2)
    })?;
    find::on_path("wrk")
        .ok_or_else(|| Error::new("`wrk` is installed, and yet not on the PATH").exit_code(2))
}

/// The servers of this machine; installs the missing ones when root, and otherwise says what to type.
pub fn find_or_install(progress: &Progress) -> Result<Binaries> {
    let missing = match find() {
        Ok(binaries) => return Ok(binaries),
        Err(missing) => missing,
    };
    let from_source =
        missing.contains(&Tool::PgBouncer) && !pgbouncer::packaged_is_new_enough(progress)?;
    let mut packages: Vec<&str> = missing
        .iter()
        .filter(|tool| !(from_source && **tool == Tool::PgBouncer))
        .map(|tool| tool.package())
        .collect();
    if from_source {
        packages.extend(pgbouncer::missing_build_packages());
    }
    if !packages.is_empty() {
        if !is_root() {
            return Err(Error::new(format!("these packages are missing: {}", packages.join(", ")))
                .way_out(format!(
                    "sudo apt-get install --no-install-recommends {}",
                    packages.join(" ")
                ))
                .exit_code(2));
        }
        apt::install(&packages, progress)?;
    }
    if from_source {
        pgbouncer::build(progress)?;
    }
    find().map_err(|missing| {
        let names: Vec<&str> = missing.iter().map(|tool| tool.package()).collect();
        Error::new(format!("installed, and yet not found on this machine: {}", names.join(", ")))
            .exit_code(2)
    })
}
