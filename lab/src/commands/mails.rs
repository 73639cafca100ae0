//! `cargo lab mails`: what the mail server of the lab was given.

use std::io::{self, Write};

use super::up_dir;
use crate::error::{Context, Error, Result};
use crate::mail::{dir, messages};

/// Prints the newest messages, the newest last.
pub fn run(count: usize) -> Result<()> {
    let dir = dir(&up_dir()?);
    if !dir.exists() {
        return Err(Error::new("no mail server ran here yet").way_out(
            "`cargo lab up` starts one; it is given mail when somebody registers or orders",
        ));
    }
    let messages = messages(&dir)?;
    let mut out = io::stdout().lock();
    for message in &messages[messages.len().saturating_sub(count)..] {
        match writeln!(out, "{}\n{message}", "─".repeat(72)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.cannot(|| "print a message".to_owned())?,
        }
    }
    match writeln!(out, "{} messages, kept in {}", messages.len(), dir.display()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).cannot(|| "print the count".to_owned())
        }
        _ => Ok(()),
    }
}
