//! `cargo lab test`: the test suite against throw-away servers.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::api::Shoal;
use crate::cargo::{self, cargo};
use crate::error::Result;
use crate::install::Binaries;
use crate::interrupt;
use crate::progress::Progress;
use crate::psql::Psql;
use crate::services::{ServicePorts, Services};
use crate::site::{Profile, Site};
use crate::state::{self, Lock};
use crate::topology::{LAB_TOPOLOGY, TEMPLATE_DATABASE};

/// Runs the tests with these arguments of `cargo test`, and answers its exit code.
pub fn run(args: &[OsString]) -> Result<u8> {
    interrupt::listen()?;
    let progress = Progress::new();
    let (binaries, all) = super::set_up(super::TEST, &progress)?;
    sweep(&all, &progress);
    // First, because most runs that fail fail here.
    cargo::build_api(false)?;

    let dir = all.join(std::process::id().to_string());
    let _lock = Lock::take(&dir)?;
    let result = run_in(&dir, binaries, args, &progress);
    match result {
        Ok(0) => state::remove(&dir)?,
        Err(ref error) if error.code() == 130 => state::remove(&dir)?,
        _ => {
            eprintln!("\nThe servers' data and logs are kept until the next run: {}", dir.display())
        }
    }
    result
}

fn run_in(dir: &Path, binaries: Binaries, args: &[OsString], progress: &Progress) -> Result<u8> {
    let site = Site::new(dir, binaries, Profile::ThrowAway)?;
    let services = Services::start(&site, ServicePorts::free()?, TEMPLATE_DATABASE, progress)?;
    let topology = services.topology(&site);
    let described = topology.write(&site)?;
    crate::site::make_dir(&topology.scratch_dir(""))?;

    let step = progress.step("Migrations");
    let shoal = Shoal::new(&topology, TEMPLATE_DATABASE, &shoal_binary()?);
    shoal.run(&["migrate"], "", "run the migrations")?;
    // A single connection to it would keep tests from copying it.
    Psql::new(&site, topology.primary.port, "postgres").run(&format!(
        "alter database {TEMPLATE_DATABASE} is_template true allow_connections false"
    ))?;
    step.done();

    let mut test = cargo(&["test", "--workspace"]);
    test.args(args).env(LAB_TOPOLOGY, described);
    let code = cargo::exit_code(&mut test, "run the tests")?;
    drop(services);
    Ok(code)
}

fn shoal_binary() -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join("debug/shoal"))
}

/// Removes what earlier runs have left: those that failed, and those that were killed.
fn sweep(all: &Path, progress: &Progress) {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    for dir in entries.map(|entry| entry.path()).filter(|dir| !is_of_a_running_process(dir)) {
        if let Ok(Some(_lock)) = Lock::take(&dir) {
            state::stop_orphans(&dir, progress);
            // What cannot be removed now may be next time.
            let _ = state::remove(&dir);
        }
    }
}

/// A directory is named after its process, which may be about to lock it.
fn is_of_a_running_process(dir: &Path) -> bool {
    dir.file_name().is_some_and(|pid| Path::new("/proc").join(pid).exists())
}
