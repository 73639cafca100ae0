//! Server processes: start, watch, stop. Nothing here ever signals a process it did not start.

mod identity;
mod launch;
mod log;
mod spawner;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

pub use identity::Identity;
pub use launch::{Launch, StopSignal};
pub(crate) use log::tail;

use crate::error::{Context, Error, Result};
use crate::interrupt;

/// How often a server that is starting or stopping is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Enough of a log to see why a server ended, without burying the message.
pub(crate) const LAST_LINES: usize = 15;

/// A running server, stopped when this is dropped.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    child: Child,
}

impl Process {
    /// Starts the server; it may not be ready yet.
    pub fn start(launch: Launch) -> Result<Self> {
        launch.rotate_log();
        let child = spawn(&launch)?;
        Ok(Self { launch, child })
    }

    /// Ends the server if it still runs, and starts it again in the same way.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.child = spawn(&self.launch)?;
        Ok(())
    }

    /// The name the lab knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// The process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until `is_ready`, and gives up when the server ends, the time is over or the user interrupts.
    pub fn wait_until(
        &mut self,
        within: Duration,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                self.forget();
                return Err(self.failure(&format!("ended with {status} instead of getting ready")));
            }
            if is_ready() {
                return Ok(());
            }
            if interrupt::requested() {
                return Err(Error::interrupted());
            }
            if began.elapsed() > within {
                return Err(self.failure(&format!("was not ready within {} s", within.as_secs())));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn failure(&self, what: &str) -> Error {
        let log = &self.launch.log;
        let lines = tail(log, LAST_LINES);
        Error::new(format!("{} {what}. The end of its log:\n{lines}", self.name()))
            .way_out(format!("the whole log is {}", log.display()))
    }

    /// Asks the server to end, and kills it when it has not after its grace. Does nothing if it ended.
    pub fn stop(&mut self) {
        self.stop_by(self.launch.stop_signal);
    }

    /// Like [`Process::stop`], by another signal than the usual one.
    pub fn stop_by(&mut self, signal: StopSignal) {
        self.signal(signal.number());
        // A frozen process acts on no signal until it is thawed.
        self.signal(Signal::CONT);
        let began = Instant::now();
        while self.exit_status().is_none() {
            if began.elapsed() > self.launch.grace {
                self.kill();
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        self.forget();
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        // Collecting it cannot fail: it is a child of this process, and has not been collected.
        let _ = self.child.wait();
        self.forget();
    }

    /// Freezes it: connections stay open, and nothing answers.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Thaws it.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal if it runs. A child's number is not reused before the child is collected, which
    /// only `exit_status` and `kill` do, so this cannot reach anybody else.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            // It may end between the two lines; then there is nothing to signal.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    fn forget(&self) {
        if let Some(record) = &self.launch.record {
            let _ = fs::remove_file(record);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(launch: &Launch) -> Result<Child> {
    let command = launch.command()?;
    let child = spawner::spawn(command).cannot(|| format!("start {}", launch.name))?;
    if let Some(record) = &launch.record {
        write_record(record, child.id())?;
    }
    Ok(child)
}

fn write_record(record: &Path, pid: u32) -> Result<()> {
    // A server that has ended already needs no record.
    let Some(identity) = Identity::of(pid) else {
        return Ok(());
    };
    let json = serde_json::to_string(&identity).cannot(|| format!("describe process {pid}"))?;
    fs::write(record, json).cannot(|| format!("write {}", record.display()))
}

/// The servers that have a record in `dir` and still run, by name.
#[must_use]
pub fn recorded(dir: &Path) -> Vec<(String, Identity)> {
    let mut found: Vec<_> = records(dir).filter_map(|path| read_record(&path)).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// Ends what a lab that died left running, and removes its records. Answers the names of those ended.
pub(crate) fn stop_recorded(dir: &Path) -> Vec<String> {
    let left = recorded(dir);
    for (_, identity) in &left {
        identity.signal(Signal::CONT);
        // Interrupt is the fast, clean shutdown of Postgres and PgBouncer, and ends the others as well.
        identity.signal(Signal::INT);
    }
    let began = Instant::now();
    while left.iter().any(|(_, identity)| identity.is_alive()) {
        if began.elapsed() > Duration::from_secs(10) {
            left.iter().for_each(|(_, identity)| {
                identity.signal(Signal::KILL);
            });
            break;
        }
        thread::sleep(LOOK_EVERY);
    }
    records(dir).for_each(|path| {
        let _ = fs::remove_file(path);
    });
    left.into_iter().map(|(name, _)| name).collect()
}

fn records(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
}

fn read_record(path: &Path) -> Option<(String, Identity)> {
    let identity: Identity = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let name = path.file_stem()?.to_str()?.to_owned();
    identity.is_alive().then_some((name, identity))
}
