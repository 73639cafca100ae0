//! Everything that `up` has started: what is wrong with each, and what `cargo lab fault` wants to be.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::front::Front;
use super::table::Row;
use crate::error::{Error, Result};
use crate::fault::ways::Ways;
use crate::fault::words::{Kind, Order, Target, Wish, parse};
use crate::fault::{Fault, FaultProxy};
use crate::net::accepts_connections;
use crate::process::{Process, Signal};
use crate::services::Services;

/// Every server is back within a second; Postgres may have to recover.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Stopped in this order when dropped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) front: Option<Front>,
    pub(super) ways: Option<Ways>,
    pub(super) services: Services,
    /// What was done to processes and replicas on purpose, by name. Proxies know it themselves.
    done: BTreeMap<String, Done>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    process: Option<&'static str>,
    replay: Option<Replay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    Lags(Duration),
    Paused,
}

impl Running {
    pub(super) fn new(front: Option<Front>, ways: Option<Ways>, services: Services) -> Self {
        Self { front, ways, services, done: BTreeMap::new() }
    }

    /// Port and process of each, in the order in which they lean on each other.
    pub(super) fn processes(&mut self) -> Vec<(u16, &mut Process)> {
        let mut all = self.services.processes();
        all.extend(self.front.iter_mut().flat_map(Front::processes));
        all
    }

    /// The table of what runs where.
    pub(super) fn rows(&mut self) -> Vec<Row> {
        self.processes().into_iter().map(|(port, process)| Row::new(port, process)).collect()
    }

    /// Whether somebody wanted this process to end.
    pub(super) fn is_meant(&self, process: &str) -> bool {
        self.done.get(process).is_some_and(|done| done.process.is_some())
    }

    /// Does what the words want, and says what it has done.
    pub(super) fn obey(&mut self, words: &[String]) -> Result<String> {
        match parse(words, &self.targets())? {
            Order::List => Ok(self.list()),
            Order::ClearAll => {
                // Each is healed, even if another cannot be.
                let healed: Vec<_> =
                    self.targets().iter().map(|target| self.heal(&target.name)).collect();
                healed.into_iter().collect::<Result<()>>()?;
                Ok("Everything is fine again.".to_owned())
            }
            Order::On(target, wish) => self.fulfil(&target.name, wish),
        }
    }

    fn targets(&mut self) -> Vec<Target> {
        let names: Vec<String> =
            self.processes().iter().map(|(_, process)| process.name().to_owned()).collect();
        let kind = |name: &str| match self.way(name) {
            Some(_) if name.starts_with("postgres-replica") => Kind::Replica,
            Some(_) => Kind::Proxied,
            None => Kind::Plain,
        };
        names.into_iter().map(|name| Target { kind: kind(&name), name }).collect()
    }

    fn list(&mut self) -> String {
        let targets = self.targets();
        let longest = |width: &dyn Fn(&Target) -> usize| targets.iter().map(width).max();
        let names = longest(&|target| target.name.len()).unwrap_or_default();
        let now: Vec<String> = targets.iter().map(|target| self.now(&target.name)).collect();
        let states = now.iter().map(String::len).max().unwrap_or_default();
        let mut text = format!("  {:names$}  {:states$}  TAKES\n", "NAME", "NOW");
        for (target, now) in targets.iter().zip(now) {
            let takes = target.kind.faults().join(", ");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {:names$}  {now:states$}  {takes}", target.name);
        }
        text + "\n  TIME is such as 250ms, 2s or 1m. `cargo lab fault clear` heals everything."
    }

    /// What is wrong with a target. What is wrong with the way to a Postgres is told of its PgBouncer.
    fn now(&mut self, name: &str) -> String {
        let mut wrong = Vec::new();
        let done = self.done.get(name).copied().unwrap_or_default();
        match (done.process, self.has_ended(name)) {
            (Some(done), _) => wrong.push(done.to_owned()),
            (None, true) => wrong.push("ended".to_owned()),
            (None, false) => {}
        }
        wrong.extend(done.replay.map(|replay| match replay {
            Replay::Lags(delay) => format!("lag {delay:?}"),
            Replay::Paused => "pause".to_owned(),
        }));
        if let Some((_, proxy)) = self.way(name).filter(|(way, _)| *way == name) {
            wrong.extend(
                Some(proxy.fault()).filter(|fault| *fault != Fault::Pass).map(|f| f.to_string()),
            );
        }
        if wrong.is_empty() { "fine".to_owned() } else { wrong.join(", ") }
    }

    fn fulfil(&mut self, name: &str, wish: Wish) -> Result<String> {
        let mut told = name.to_owned();
        match wish {
            Wish::Clear => self.heal(name)?,
            Wish::Way(_) | Wish::Reset => {
                let (way, proxy) = self.way(name).ok_or_else(|| no_such(name))?;
                way.clone_into(&mut told);
                match wish {
                    Wish::Way(fault) => proxy.set(fault)?,
                    _ => {
                        proxy.reset()?;
                        return Ok(format!("{told}: all connections were reset"));
                    }
                }
            }
            Wish::Lag(delay) => self.replay(name, Some(Replay::Lags(delay)))?,
            Wish::Pause => self.replay(name, Some(Replay::Paused))?,
            Wish::Restart => self.restart(name)?,
            Wish::Kill | Wish::Stop | Wish::Continue | Wish::Terminate => {
                self.signal(name, wish)?
            }
        }
        Ok(format!("{told}: {}", self.now(&told)))
    }

    fn signal(&mut self, name: &str, wish: Wish) -> Result<()> {
        let process = self.process(name)?;
        if process.exit_status().is_some() {
            return Err(Error::new(format!("{name} does not run"))
                .way_out(format!("`cargo lab fault {name} clear` brings it back")));
        }
        let done = match wish {
            Wish::Kill => {
                process.kill();
                Some("killed")
            }
            Wish::Terminate => {
                process.signal(Signal::TERM);
                Some("terminated")
            }
            Wish::Stop => {
                process.pause();
                Some("stopped")
            }
            _ => {
                process.resume();
                None
            }
        };
        self.done.entry(name.to_owned()).or_default().process = done;
        Ok(())
    }

    fn restart(&mut self, name: &str) -> Result<()> {
        self.process(name)?.restart()?;
        self.wait_until_back(name)?;
        let done = self.done.entry(name.to_owned()).or_default();
        done.process = None;
        // A Postgres that is started replays; how late, its configuration says.
        done.replay = done.replay.filter(|replay| *replay != Replay::Paused);
        Ok(())
    }

    fn wait_until_back(&mut self, name: &str) -> Result<()> {
        if let Some(postgres) = self.services.postgres(name) {
            return postgres.wait_until_ready();
        }
        let mut processes = self.processes();
        let found = processes.iter_mut().find(|(_, process)| process.name() == name);
        let (port, process) = found.ok_or_else(|| no_such(name))?;
        let port = *port;
        process.wait_until(BACK_WITHIN, || accepts_connections(port))
    }

    fn replay(&mut self, name: &str, replay: Option<Replay>) -> Result<()> {
        let replica = self.services.postgres(name).ok_or_else(|| no_such(name))?;
        let delay = match replay {
            Some(Replay::Lags(delay)) => delay,
            _ => Duration::ZERO,
        };
        replica.resume_replay()?;
        replica.set_apply_delay(delay)?;
        if replay == Some(Replay::Paused) {
            replica.pause_replay()?;
        }
        self.done.entry(name.to_owned()).or_default().replay = replay;
        Ok(())
    }

    /// Makes everything about a target as it was in the beginning.
    fn heal(&mut self, name: &str) -> Result<()> {
        self.process(name)?.resume();
        let done = self.done.get(name).copied().unwrap_or_default();
        // One that was asked to end may be about to.
        if done.process == Some("terminated") || self.has_ended(name) {
            self.restart(name)?;
        }
        if self.done.get(name).is_some_and(|done| done.replay.is_some()) {
            self.replay(name, None)?;
        }
        self.done.remove(name);
        match self.way(name) {
            Some((_, proxy)) => proxy.clear(),
            None => Ok(()),
        }
    }

    fn has_ended(&mut self, name: &str) -> bool {
        self.process(name).is_ok_and(|process| process.exit_status().is_some())
    }

    /// A target is always one of the processes, for their names are what is parsed.
    fn process(&mut self, name: &str) -> Result<&mut Process> {
        let found = self.processes().into_iter().find(|(_, process)| process.name() == name);
        found.map(|(_, process)| process).ok_or_else(|| no_such(name))
    }

    fn way(&self, name: &str) -> Option<(&str, &FaultProxy)> {
        self.ways.as_ref().and_then(|ways| ways.to(name))
    }
}

fn no_such(name: &str) -> Error {
    Error::new(format!("{name} does not take that"))
}
