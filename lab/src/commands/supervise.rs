//! Watches running servers, says at once when one ends, and lets `cargo lab fault` break them.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::running::Running;
use super::table;
use crate::fault::control::Control;
use crate::interrupt;
use crate::process::{LAST_LINES, tail};

/// Soon enough to be called at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Returns when the user asks to stop. A server that ends is reported, and the others go on.
pub(super) fn until_interrupted(dir: &Path, running: &mut Running, control: Option<&Control>) {
    let mut reported = BTreeSet::new();
    while !interrupt::requested() {
        let Some(control) = control else {
            report(running, &mut reported);
            thread::sleep(LOOK_EVERY);
            continue;
        };
        if let Some(request) = control.next(LOOK_EVERY) {
            let outcome = running.obey(&request.words);
            // A server that was started again has another number.
            let saved = table::save(dir, &running.rows());
            request.answer(outcome.and_then(|text| saved.map(|()| text)));
        }
        report(running, &mut reported);
    }
}

fn report(running: &mut Running, reported: &mut BTreeSet<String>) {
    let mut ended = Vec::new();
    for (_, process) in running.processes() {
        let name = process.name().to_owned();
        match process.exit_status() {
            Some(status) => ended.push((name, status, process.log().to_owned())),
            // Should it end again, that is news.
            None => drop(reported.remove(&name)),
        }
    }
    for (name, status, log) in ended {
        if running.is_meant(&name) || !reported.insert(name.clone()) {
            continue;
        }
        let shown = log.display();
        eprintln!(
            "\n✗ {name} has ended ({status}); the others go on. The end of its log, {shown}:"
        );
        eprintln!("{}", tail(&log, LAST_LINES));
        eprintln!("  → Ctrl-C and `cargo lab up` start everything again; the data is kept");
    }
}
