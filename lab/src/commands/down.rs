//! `cargo lab down`: stops the lab from another terminal.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::up_dir;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::state::{Lock, holder, stop_orphans};

/// Every server's grace, one after the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks the lab to stop and waits until it has. Stops what a killed lab has left.
pub fn run() -> Result<()> {
    let dir = up_dir()?;
    let progress = Progress::new();
    if let Some(lab) = holder(&dir) {
        let step = progress.step(format!("Stopping the lab, process {}", lab.pid));
        lab.signal(Signal::TERM);
        let began = Instant::now();
        while lab.is_alive() {
            if began.elapsed() > PATIENCE {
                return Err(Error::new(format!(
                    "process {} has not stopped within {} s",
                    lab.pid,
                    PATIENCE.as_secs()
                ))
                .way_out(format!("kill -9 {}, and `cargo lab down` again", lab.pid)));
            }
            thread::sleep(Duration::from_millis(50));
        }
        step.done();
    }
    // Another `up` may have begun meanwhile; its servers are its own.
    if let Some(_lock) = Lock::take(&dir)? {
        stop_orphans(&dir, &progress);
    }
    println!("No lab is running. `cargo lab up` starts one; its data is kept.");
    Ok(())
}
