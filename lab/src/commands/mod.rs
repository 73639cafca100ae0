//! The commands of `cargo lab`, one file each.

pub mod down;
pub mod logs;
pub mod prepare;
pub mod status;
pub mod test;
pub mod up;

mod supervise;
mod table;

use std::path::PathBuf;

use crate::account::Account;
use crate::cargo;
use crate::error::{Error, Result};
use crate::install::{self, Binaries};
use crate::progress::Progress;
use crate::state;

/// The directory of `cargo lab up` below the target directory.
const UP: &str = "lab";
/// The directory of the throw-away sites below the target directory.
const TEST: &str = "lab-test";

/// Finds or installs the servers, and the directory `name` that their account can reach.
fn set_up(name: &str, progress: &Progress) -> Result<(Binaries, PathBuf)> {
    let binaries = install::find_or_install(progress)?;
    let account = Account::for_servers()?;
    let dir = state::dir(&cargo::target_dir()?, name, account.as_ref(), progress);
    state::check_free_space(&dir)?;
    Ok((binaries, dir))
}

/// The directory of the lab that runs or ran last.
fn up_dir() -> Result<PathBuf> {
    state::existing_dir(&cargo::target_dir()?, UP).ok_or_else(|| Error::new("no lab was started here yet").way_out("`cargo lab up` starts one"))
}
