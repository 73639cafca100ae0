//! `cargo lab fault`: breaks and heals parts of the lab that runs in another terminal.

use super::up_dir;
use crate::error::{Error, Result};
use crate::fault::control;
use crate::state::holder;

/// Sends the words to the lab, and prints its answer.
pub fn run(words: &[String]) -> Result<()> {
    let dir = up_dir()?;
    if holder(&dir).is_none() {
        return Err(Error::new("no lab is running")
            .way_out("`cargo lab up --faults` starts one that takes faults"));
    }
    let answer = control::ask(&dir, words)?.ok_or_else(|| {
        Error::new("the lab that runs takes no faults")
            .way_out("if it is still starting, wait; else stop it, and `cargo lab up --faults`")
    })?;
    println!("{answer}");
    Ok(())
}
