//! Processes that are started, watched and stopped for real.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Launch, Process, recorded, stop_recorded};

/// A directory of a test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("lab-{test}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory can be made");
        Self(dir)
    }

    fn launch(&self, script: &str) -> Launch {
        let log = self.0.join("server.log");
        Launch::new("server", Path::new("/bin/sh"), log).args(["-c", script]).record_in(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until the script has said so, that is, until its traps are set.
fn started(launch: Launch) -> Process {
    let mut process = Process::start(launch).expect("it starts");
    let log = process.log().to_owned();
    let said = || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"));
    process.wait_until(Duration::from_secs(10), said).expect("it says that it is ready");
    process
}

#[test]
fn a_server_is_recorded_while_it_runs_and_not_afterwards() {
    let scratch = Scratch::new("recorded");
    let mut process = started(scratch.launch("echo ready; exec sleep 60"));
    let found = recorded(&scratch.0);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.as_str(), found[0].1.pid), ("server", process.pid()));
    process.stop();
    assert!(recorded(&scratch.0).is_empty());
    assert!(!scratch.0.join("server.json").exists());
}

#[test]
fn what_a_dead_lab_left_is_stopped_by_its_record() {
    let scratch = Scratch::new("orphan");
    let mut process = started(scratch.launch("echo ready; exec sleep 60"));
    assert_eq!(stop_recorded(&scratch.0), ["server"]);
    assert!(process.exit_status().is_some());
    assert!(stop_recorded(&scratch.0).is_empty());
}

#[test]
fn a_record_of_another_process_stops_nobody() {
    let scratch = Scratch::new("stranger");
    let mut process = started(scratch.launch("echo ready; exec sleep 60"));
    let record = scratch.0.join("server.json");
    let text = fs::read_to_string(&record).expect("it is recorded");
    // As if the number had been given to a process that started later.
    fs::write(&record, text.replace("\"started\":", "\"started\":1")).expect("it can be changed");
    assert!(stop_recorded(&scratch.0).is_empty());
    assert!(process.exit_status().is_none(), "a stranger was signalled");
}

#[test]
fn a_server_that_ends_early_is_told_with_its_log() {
    let scratch = Scratch::new("early");
    let mut process =
        Process::start(scratch.launch("echo no such luck; exit 3")).expect("it starts");
    let error = process.wait_until(Duration::from_secs(10), || false).expect_err("it ends");
    let message = error.to_string();
    for part in ["server", "exit status: 3", "no such luck", "server.log"] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn a_server_that_does_not_listen_is_killed_after_its_grace() {
    let scratch = Scratch::new("stubborn");
    let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let grace = Duration::from_millis(300);
    let mut process = started(scratch.launch(script).grace(grace));
    let began = Instant::now();
    process.stop();
    assert!(began.elapsed() >= grace, "it was not given its grace");
    assert!(process.exit_status().is_some_and(|status| !status.success()));
}

#[test]
fn a_frozen_server_can_be_stopped() {
    let scratch = Scratch::new("frozen");
    let mut process =
        started(scratch.launch("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"));
    process.pause();
    process.stop();
    assert!(process.exit_status().is_some_and(|status| status.success()), "it was killed instead");
}

#[test]
fn a_restarted_server_is_another_process_with_the_same_record() {
    let scratch = Scratch::new("restarted");
    let mut process = started(scratch.launch("echo ready; exec sleep 60"));
    let first = process.pid();
    process.restart().expect("it starts again");
    assert_ne!(process.pid(), first);
    assert_eq!(recorded(&scratch.0)[0].1.pid, process.pid());
}

#[test]
fn a_server_outlives_the_thread_that_asked_for_it() {
    let scratch = Scratch::new("thread");
    let launch = scratch.launch("echo ready; exec sleep 60");
    let mut process = std::thread::spawn(move || started(launch)).join().expect("the thread ends");
    // The kernel would have sent the signal before `join` returned; a signal that is pending ends a sleep
    // at once, so one look after a yield of the processor is enough to see it.
    std::thread::yield_now();
    assert!(process.exit_status().is_none(), "it ended with the thread");
}
