//! Runs cargo for this repository.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::run::output_of;
use crate::site::repository;

/// What `cargo run` sets for the lab itself. Build scripts look at some of them, and would see a change
/// and run again.
const OF_THE_LAB: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// Builds the API. For the whole workspace, because cargo adds up the features of what it is asked to
/// build: another selection than that of the tests would compile most dependencies a second time.
pub(crate) const BUILD_API: [&str; 4] = ["build", "--workspace", "--bin", "shoal"];

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

/// Runs it to its end; cargo itself shows what it does.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    match exit_code(command, what)? {
        0 => Ok(()),
        code => Err(Error::new(format!("cannot {what}: cargo says why above")).exit_code(code)),
    }
}

/// Runs it to its end, and answers its exit code.
pub(crate) fn exit_code(command: &mut Command, what: &str) -> Result<u8> {
    let status = command.status().cannot(|| what.to_owned())?;
    if interrupt::requested() {
        return Err(Error::interrupted());
    }
    // Without a code it was ended by a signal.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
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
