//! What is known of one pool's server, shared by the pool, its connections and the sampler.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use prometheus::{Histogram, HistogramVec};

use super::error::Error;
use crate::platform::breaker::Breaker;

/// The first words by which statements are told apart, be they in a comment; the last stands for all
/// others.
const KINDS: [&str; 8] =
    ["select", "with", "insert", "update", "delete", "begin", "commit", "other"];

/// One server behind its PgBouncer.
pub(super) struct Target {
    pub(super) name: &'static str,
    /// Opened by failures to connect and to be sampled, closed by any answer.
    pub(super) breaker: Breaker,
    /// It should be the primary, and replays another's log: what it says may be old.
    is_demoted: AtomicBool,
    /// `db_query_duration_seconds`, in the order of `KINDS`.
    seconds: [Histogram; KINDS.len()],
}

impl Target {
    pub(super) fn new(name: &'static str, breaker: Breaker, seconds: &HistogramVec) -> Self {
        let seconds = KINDS.map(|kind| seconds.with_label_values(&[name, kind]));
        Self { name, breaker, is_demoted: AtomicBool::new(false), seconds }
    }

    /// Says at once what would only be found out by waiting.
    ///
    /// # Errors
    /// `Unreachable` while the server does not answer, or is not what it should be.
    pub(super) fn check(&self) -> Result<(), Error> {
        let why = if self.breaker.is_open() {
            "it did not answer lately"
        } else if self.is_demoted.load(Ordering::Relaxed) {
            "it is a standby, not the primary"
        } else {
            return Ok(());
        };
        Err(Error::Unreachable(self.name, why.to_owned()))
    }

    /// It replays another's log.
    pub(super) fn demote(&self) {
        if !self.is_demoted.swap(true, Ordering::Relaxed) {
            tracing::warn!(pool = self.name, "the primary is a standby now: not used");
        }
    }

    /// It is the primary.
    pub(super) fn confirm(&self) {
        if self.is_demoted.swap(false, Ordering::Relaxed) {
            tracing::info!(pool = self.name, "the primary is one again");
        }
    }

    /// Observes how long a statement takes, when it is dropped.
    pub(super) fn time(&self, sql: &str) -> Timer<'_> {
        Timer { seconds: &self.seconds[kind_of(sql)], start: Instant::now() }
    }
}

pub(super) struct Timer<'a> {
    seconds: &'a Histogram,
    start: Instant,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.seconds.observe(self.start.elapsed().as_secs_f64());
    }
}

fn kind_of(sql: &str) -> usize {
    let words = sql.trim_start();
    let words = words.strip_prefix("-- ").unwrap_or(words);
    let word = words.split(|c: char| !c.is_ascii_alphabetic()).next();
    let word = word.unwrap_or_default();
    let other = KINDS.len() - 1;
    KINDS[..other].iter().position(|kind| word.eq_ignore_ascii_case(kind)).unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_told_apart_by_their_first_word() {
        for (sql, kind) in [
            ("\n  select 1", "select"),
            ("SELECT\n1", "select"),
            ("begin; set local statement_timeout = 1", "begin"),
            ("with a as (select 1) insert into b select 1", "with"),
            ("-- commit\nselect write_events(''); commit", "commit"),
            ("selective", "other"),
            ("", "other"),
        ] {
            assert_eq!(KINDS[kind_of(sql)], kind, "{sql}");
        }
    }
}
