//! Where servers are in the log, and how far behind that is in time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::lsn::Lsn;

/// What one server said of itself.
#[derive(Debug, Clone)]
pub(super) struct Position {
    pub(super) is_in_recovery: bool,
    /// Flushed by a primary, replayed by a standby.
    pub(super) lsn: Lsn,
    pub(super) timeline: i32,
    /// Told apart by this: two clusters that happen to be at similar positions.
    pub(super) system: i64,
    pub(super) is_paused: bool,
}

/// The positions that a primary was seen at, and when by the clock of this process.
///
/// Lag in time is the age of the oldest of them that a standby has not replayed. No clock of
/// Postgres says that: `pg_last_xact_replay_timestamp` stands still on a quiet primary, and a
/// standby that gets nothing has replayed all it knows of.
pub(super) struct History {
    /// The first position seen. How long ago what is before it was written, nobody knows.
    began: Lsn,
    started: Instant,
    /// When the primary was last seen. While it is away, nobody falls further behind it.
    last: Instant,
    /// Oldest first.
    spans: VecDeque<Span>,
    spacing: Duration,
}

/// Everything up to here that no earlier span has was seen at `since` or later.
struct Span {
    since: Instant,
    up_to: Lsn,
}

/// When there are more, they are thinned, which leaves about 200 of a year.
const MOST_SPANS: usize = 512;

/// A thinned span is as long as this part of its age, which is how much too long a lag may look.
const PART_OF_AGE: u32 = 8;

/// How many spans the lag that is tolerated is divided into.
const RESOLUTION: u32 = 64;

impl History {
    /// Begins at `lsn`, to tell lags around `limit`.
    pub(super) fn new(lsn: Lsn, now: Instant, limit: Duration) -> Self {
        let spans = VecDeque::with_capacity(MOST_SPANS + 1);
        Self { began: lsn, started: now, last: now, spans, spacing: limit / RESOLUTION }
    }

    /// Notes that the primary was at `lsn`.
    pub(super) fn push(&mut self, lsn: Lsn, now: Instant) {
        self.last = now;
        match self.spans.back_mut() {
            Some(span) if lsn <= span.up_to => {}
            None if lsn <= self.began => {}
            // Makes lags look longer by the spacing at most, never shorter.
            Some(span) if now.duration_since(span.since) < self.spacing => span.up_to = lsn,
            _ => self.spans.push_back(Span { since: now, up_to: lsn }),
        }
        if self.spans.len() > MOST_SPANS {
            self.thin();
        }
    }

    /// How long ago the primary was first seen beyond `replayed`; `None` if that was before the
    /// history began.
    pub(super) fn lag(&self, replayed: Lsn) -> Option<Duration> {
        if replayed < self.began {
            return None;
        }
        let oldest = self.spans.partition_point(|span| span.up_to <= replayed);
        let since = self.spans.get(oldest).map_or(self.last, |span| span.since);
        Some(self.last.duration_since(since))
    }

    /// How long the primary has been watched.
    pub(super) fn length(&self) -> Duration {
        self.last.duration_since(self.started)
    }

    /// Merges what is old, so that any length of time fits.
    fn thin(&mut self) {
        let mut spans = std::mem::take(&mut self.spans).into_iter().peekable();
        while let Some(span) = spans.next() {
            let end = spans.peek().map_or(self.last, |next| next.since);
            match self.spans.back_mut() {
                Some(before)
                    if end.duration_since(before.since)
                        <= self.last.duration_since(before.since) / PART_OF_AGE =>
                {
                    before.up_to = span.up_to;
                }
                _ => self.spans.push_back(span),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_position_that_was_not_replayed() {
        let start = Instant::now();
        let mut history = History::new(Lsn(100), start, LIMIT);
        for second in 1..=9 {
            history.push(Lsn(100 + second), at(start, second));
        }
        assert_eq!(history.lag(Lsn(109)), Some(Duration::ZERO));
        assert_eq!(history.lag(Lsn(108)), Some(Duration::ZERO), "seen just now");
        assert_eq!(history.lag(Lsn(104)), Some(Duration::from_secs(4)));
        assert_eq!(history.lag(Lsn(99)), None, "from before anybody looked");
        // A quiet primary: who has everything is not behind, who has not falls further behind.
        history.push(Lsn(109), at(start, 60));
        assert_eq!(history.lag(Lsn(109)), Some(Duration::ZERO));
        assert_eq!(history.lag(Lsn(108)), Some(Duration::from_secs(51)));
    }

    #[test]
    fn lag_is_never_told_too_short_however_long_it_is() {
        let start = Instant::now();
        let mut history = History::new(Lsn(0), start, LIMIT);
        for second in 1..=1_000_000 {
            history.push(Lsn(second), at(start, second));
        }
        assert!(history.spans.len() <= MOST_SPANS);
        for behind in [1, 10, 100, 1_000, 9_999, 999_999] {
            let lag = history.lag(Lsn(1_000_000 - behind)).unwrap().as_secs();
            assert!((behind - 1..=behind + behind / 7).contains(&lag), "{behind} s: {lag} s");
        }
    }

    #[test]
    fn samples_in_quick_succession_share_a_span() {
        let start = Instant::now();
        let mut history = History::new(Lsn(0), start, LIMIT);
        for index in 1..=1_000 {
            history.push(Lsn(index), start + Duration::from_micros(index));
        }
        assert_eq!(history.spans.len(), 1);
        assert!(history.lag(Lsn(999)).unwrap() >= Duration::from_micros(999));
    }
}
