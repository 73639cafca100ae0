//! What can be wrong with a replica: it lags, it stands still, it has become a primary.

use std::fs;
use std::time::Duration;

use super::{Postgres, READY_WITHIN};
use crate::error::{Context, Error, Result};
use crate::psql::Psql;
use crate::site::write_private;

const DELAY: &str = "recovery_min_apply_delay";

/// For replicas only: Postgres refuses the statements on a primary.
impl Postgres {
    /// From now on commits become visible here this long after they were made on the primary; zero ends
    /// that, also for those that wait already. It outlasts a restart of the process, not one of the lab.
    pub fn set_apply_delay(&mut self, delay: Duration) -> Result<()> {
        let milliseconds = delay.as_millis();
        // Not by ALTER SYSTEM, whose file stays with the data: the next lab would find a lagging replica.
        let path = self.site.etc(&format!("{}.conf", self.process.name()));
        let config = fs::read_to_string(&path).cannot(|| format!("read {}", path.display()))?;
        let others: Vec<&str> = config.lines().filter(|line| !line.starts_with(DELAY)).collect();
        write_private(&path, &format!("{}\n{DELAY} = {milliseconds}\n", others.join("\n")))?;
        self.site.own(&path)?;
        self.ask("select pg_reload_conf()")?;
        // A new session has what the server process had when it came: once it shows the new value, the
        // replaying process has been told as well.
        let shown = format!("select setting from pg_settings where name = '{DELAY}'");
        self.wait_for(&shown, &milliseconds.to_string())
    }

    /// Replays nothing more: what is committed on the primary stays invisible here, although it arrives.
    /// Returns once it stands still. With a delay set, that may take as long as the delay.
    pub fn pause_replay(&mut self) -> Result<()> {
        self.ask("select pg_wal_replay_pause()")?;
        self.wait_for("select pg_get_wal_replay_pause_state()", "paused")
    }

    /// Replays on.
    pub fn resume_replay(&mut self) -> Result<()> {
        self.ask("select pg_wal_replay_resume()").map(drop)
    }

    /// Makes it a primary, on a timeline of its own. Returns once it takes writes; the old primary is not
    /// told. It cannot be undone.
    pub fn promote(&mut self) -> Result<()> {
        let within = READY_WITHIN.as_secs();
        match self.ask(&format!("select pg_promote(true, {within})"))?.as_str() {
            "t" => Ok(()),
            _ => Err(Error::new(format!(
                "{} has not become a primary within {within} s",
                self.process.name()
            ))),
        }
    }

    fn ask(&self, sql: &str) -> Result<String> {
        Psql::new(&self.site, self.port(), "postgres").run(sql)
    }

    fn wait_for(&mut self, question: &str, expected: &str) -> Result<()> {
        let (site, port) = (&self.site, self.port.number());
        let is_so = || {
            Psql::new(site, port, "postgres").run(question).is_ok_and(|answer| answer == expected)
        };
        self.process.wait_until(READY_WITHIN, is_so)
    }
}
