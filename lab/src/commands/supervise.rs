//! Watches running servers, and says at once when one ends.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::interrupt;
use crate::process::{LAST_LINES, Process, tail};

/// Soon enough to be called at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Returns when the user asks to stop. A server that ends is reported, and the others go on.
pub(super) fn until_interrupted(mut processes: Vec<(u16, &mut Process)>) {
    let mut reported = BTreeSet::new();
    while !interrupt::requested() {
        for (_, process) in &mut processes {
            let Some(status) = process.exit_status() else {
                continue;
            };
            if reported.insert(process.name().to_owned()) {
                let (name, log) = (process.name(), process.log());
                eprintln!(
                    "\n✗ {name} has ended ({status}); the others go on. The end of its log, {}:",
                    log.display()
                );
                eprintln!("{}", tail(log, LAST_LINES));
                eprintln!("  → Ctrl-C and `cargo lab up` start everything again; the data is kept");
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}
