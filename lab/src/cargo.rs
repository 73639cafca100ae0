//! Runs cargo for this repository.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::run::output_of;
use crate::site::repository;

/// What `cargo run` sets for the lab itself. Build scripts look at some of them, and would see a change
/// and run again.
const OF_THE_LAB: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// Builds the API. For the whole workspace, because cargo adds up the features of what it is asked to
/// build: another selection than that of the tests would compile most dependencies a second time.
const BUILD_API: [&str; 4] = ["build", "--workspace", "--bin", "shoal"];

/// `cargo ARGS`, in the repository.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(repository());
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| OF_THE_LAB.iter().any(|prefix| name.starts_with(prefix)))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Builds the API, with what a newcomer to sqlx's checked queries needs to know if that fails.
pub(crate) fn build_api(release: bool) -> Result<()> {
    let mut command = cargo(&BUILD_API);
    if release {
        command.arg("--release");
    }
    run(&mut command, "build the API").map_err(|error| {
        error.way_out("after a change of a query or a migration, `cargo lab prepare` renews .sqlx/")
    })
}

/// Builds, with optimisations, the API and the lab, whose bare servers it is compared with, and the worker
/// whose jobs cost nothing.
pub(crate) fn build_bench() -> Result<()> {
    let what = ["--workspace", "--bins", "--example", "worker"];
    let mut command = cargo(&["build", "--locked", "--release"]);
    command.args(what);
    run(&mut command, "build the API with optimisations")
}

/// Runs it to its end; cargo itself shows what it does.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    match exit_code(command, what)? {
        0 => Ok(()),
        code => Err(Error::new(format!("cannot {what}: cargo says why above")).exit_code(code)),
    }
}

/// Runs it to its end, and answers its exit code.
///
/// Cargo and what it runs are a process group of their own, which is interrupted as one: a signal to the
/// lab alone would leave a compiler or a test running.
pub(crate) fn exit_code(command: &mut Command, what: &str) -> Result<u8> {
    let mut child =
        command.stdin(Stdio::null()).process_group(0).spawn().cannot(|| what.to_owned())?;
    let status = loop {
        if let Some(status) = child.try_wait().cannot(|| what.to_owned())? {
            break status;
        }
        if interrupt::requested() {
            end_group(&mut child);
            return Err(Error::interrupted());
        }
        thread::sleep(Duration::from_millis(20));
    };
    // Without a code it was ended by a signal.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Interrupts the group of a child that has not been collected, and kills it if that takes too long.
fn end_group(child: &mut Child) {
    let group = Pid::from_child(child);
    let _ = kill_process_group(group, Signal::INT);
    let began = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if began.elapsed() > Duration::from_secs(5) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The target directory, wherever the environment or a configuration file has put it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let mut command = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let text = output_of(&mut command, "", "ask cargo for the target directory")?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).cannot(|| "understand cargo's metadata".to_owned())?;
    let dir = metadata["target_directory"]
        .as_str()
        .ok_or_else(|| Error::new("cargo's metadata names no target directory"))?;
    Ok(PathBuf::from(dir))
}
