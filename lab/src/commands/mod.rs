//! The commands of `cargo lab`, one file each.

pub mod autoscale;
pub mod bench;
pub mod down;
pub mod fault;
pub mod logs;
pub mod mails;
pub mod prepare;
pub mod ship_check;
pub mod status;
pub mod test;
pub mod up;

mod front;
mod running;
mod supervise;
mod table;

use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::account::Account;
use crate::cargo;
use crate::error::{Error, Result};
use crate::install::{self, Binaries};
use crate::progress::Progress;
use crate::state;

/// More than all the connections that a test opens.
const OPEN_FILES: u64 = 65_536;
/// The directory of `cargo lab up` below the target directory.
const UP: &str = "lab";
/// The directory of the throw-away sites below the target directory.
const TEST: &str = "lab-test";

/// Finds or installs the servers, and the directory `name` that their account can reach.
fn set_up(name: &str, progress: &Progress) -> Result<(Binaries, PathBuf)> {
    raise_file_limit();
    let binaries = install::find_or_install(progress)?;
    let account = Account::for_servers()?;
    let dir = state::dir(&cargo::target_dir()?, name, account.as_ref(), progress);
    state::check_free_space(&dir)?;
    Ok((binaries, dir))
}

/// PgBouncer and nginx keep a file open per connection, and the usual limit of 1,024 is soon reached.
/// Servers inherit the lab's limit, which it may raise up to the hard one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), ..limit };
        // Without it the servers still start, and say what they miss.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// The directory of the lab that runs or ran last.
fn up_dir() -> Result<PathBuf> {
    state::existing_dir(&cargo::target_dir()?, UP).ok_or_else(|| {
        Error::new("no lab was started here yet").way_out("`cargo lab up` starts one")
    })
}
