//! One replica: whether it is read from, how far it is, and what it has to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{Gauge, IntGauge};
use tokio::sync::Notify;

use super::{conn::Conn, error::Error, lsn::Lsn, pool::Pool, primary::Primary, sampler::Pace};
use crate::platform::metrics::Metrics;

/// How old a sampled position may be to vouch for one's own writes. A standby that crashed may
/// come back behind where it was; in less time than this it does not come back at all.
const GOOD_FOR: Duration = Duration::from_millis(250);

/// A replica that was this far behind, or less, will most likely show a write in a few
/// milliseconds: it lags by the pause between two looks and by little else.
const CLOSE: Duration = Duration::from_millis(250);

pub(super) struct Replica {
    pub(super) pool: Pool,
    pub(super) pace: Pace,
    /// Counts how often it entered and left the rotation: odd while in it. Every borrowed
    /// connection remembers the count, and thereby knows which stay it belongs to.
    stay: AtomicU64,
    lost: Notify,
    replayed: AtomicU64,
    /// When that was seen: milliseconds since `epoch`.
    sampled: AtomicU64,
    epoch: Instant,
    is_close: AtomicBool,
    /// Reads that have or wait for a connection.
    load: AtomicUsize,
    gauges: Gauges,
}

/// `db_replica_up`, `db_replica_lag_seconds` and `db_replica_lag_bytes`.
pub(super) struct Gauges {
    pub(super) up: IntGauge,
    pub(super) lag_seconds: Gauge,
    pub(super) lag_bytes: IntGauge,
}

impl Gauges {
    /// Registers them; what comes back makes those of one replica, by its name.
    pub(super) fn families(metrics: &Metrics) -> prometheus::Result<impl Fn(&str) -> Self + use<>> {
        let labels = &["replica"];
        let up = "1 while the replica is read from.";
        let up = metrics.int_gauge_vec("db_replica_up", up, labels)?;
        let seconds = "Age of the oldest position of the primary that was not replayed.";
        let seconds = metrics.gauge_vec("db_replica_lag_seconds", seconds, labels)?;
        let bytes = "What the replica has yet to replay of the primary's log.";
        let bytes = metrics.int_gauge_vec("db_replica_lag_bytes", bytes, labels)?;
        Ok(move |replica: &str| Self {
            up: up.with_label_values(&[replica]),
            lag_seconds: seconds.with_label_values(&[replica]),
            lag_bytes: bytes.with_label_values(&[replica]),
        })
    }
}

/// How far behind the primary a replica was.
pub(super) struct Lag {
    pub(super) time: Duration,
    pub(super) bytes: u64,
}

impl Replica {
    pub(super) fn new(pool: Pool, gauges: Gauges) -> Self {
        Self {
            pool,
            pace: Pace::default(),
            stay: AtomicU64::new(0),
            lost: Notify::new(),
            replayed: AtomicU64::new(0),
            sampled: AtomicU64::new(0),
            epoch: Instant::now(),
            is_close: AtomicBool::new(false),
            load: AtomicUsize::new(0),
            gauges,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.pool.name()
    }

    pub(super) fn stay(&self) -> u64 {
        self.stay.load(Ordering::Acquire)
    }

    pub(super) fn is_in_rotation(&self) -> bool {
        is_in_rotation(self.stay())
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether a read may come here that has to see everything up to `needed`.
    pub(super) fn serves(&self, needed: Lsn) -> bool {
        self.is_in_rotation() && (needed == Lsn::default() || self.has_replayed(needed))
    }

    fn has_replayed(&self, needed: Lsn) -> bool {
        self.replayed.load(Ordering::Acquire) >= needed.0
            && self.now().saturating_sub(self.sampled.load(Ordering::Acquire))
                <= GOOD_FOR.as_millis() as u64
    }

    /// Whether waiting for it a moment is worth while.
    pub(super) fn is_close(&self) -> bool {
        self.is_in_rotation() && self.is_close.load(Ordering::Relaxed)
    }

    /// In seconds, as last measured.
    pub(super) fn lag_seconds(&self) -> f64 {
        self.gauges.lag_seconds.get()
    }

    /// A connection, which goes on at `primary` should this replica get lost.
    ///
    /// # Errors
    /// `Busy`, or `Unreachable` when no connection could be opened or the replica was lost
    /// meanwhile.
    pub(super) async fn borrow(self: &Arc<Self>, primary: &Arc<Primary>) -> Result<Conn, Error> {
        let stay = self.stay();
        let loan = Loan::new(self.clone(), stay, primary.clone());
        if !is_in_rotation(stay) {
            return Err(self.gone());
        }
        tokio::select! {
            biased;
            conn = self.pool.get() => match conn {
                Ok(conn) => Ok(conn.on_loan(loan)),
                // Alive, and as busy as it may be.
                Err(error @ Error::Busy(_)) => Err(error),
                Err(error) => {
                    self.lose(stay, &error.to_string());
                    Err(error)
                }
            },
            () = self.left(stay) => Err(self.gone()),
        }
    }

    fn gone(&self) -> Error {
        Error::Unreachable(self.name(), "it left the rotation".to_owned())
    }

    /// Completes when the replica gets lost during `stay`, or was lost since.
    async fn left(&self, stay: u64) {
        loop {
            // Made before the check, so that what happens in between wakes it.
            let lost = self.lost.notified();
            if self.stay() != stay {
                return;
            }
            lost.await;
        }
    }

    /// Notes where it was when it was asked during `stay`, unless it was lost since: a server
    /// that has crashed may come back behind where it was.
    pub(super) fn note(&self, stay: u64, position: Lsn, lag: &Lag) {
        self.gauges.lag_seconds.set(lag.time.as_secs_f64());
        self.gauges.lag_bytes.set(i64::try_from(lag.bytes).unwrap_or(i64::MAX));
        if self.stay() == stay {
            self.is_close.store(lag.time <= CLOSE, Ordering::Relaxed);
            self.replayed.store(position.0, Ordering::Release);
            self.sampled.store(self.now(), Ordering::Release);
        }
    }

    /// Enters the rotation, unless it is in it, or was lost since `stay`.
    pub(super) fn join(&self, stay: u64) {
        if !is_in_rotation(stay) && self.advance(stay) {
            self.gauges.up.set(1);
            tracing::info!(replica = self.name(), "replica joined the rotation");
        }
    }

    /// Leaves the rotation: new reads go elsewhere, those under way end here.
    pub(super) fn leave(&self, why: &str) {
        let stay = self.stay();
        if is_in_rotation(stay) && self.advance(stay) {
            self.gauges.up.set(0);
            tracing::warn!(replica = self.name(), why, "replica left the rotation");
        }
    }

    /// Leaves the rotation since it does not answer: reads under way move on, too.
    ///
    /// Does nothing if `stay` is over: a connection that broke then says nothing about now.
    pub(super) fn lose(&self, stay: u64, why: &str) {
        if self.stay() != stay {
            return;
        }
        self.leave(why);
        self.pool.forget_idle();
        self.lost.notify_waiters();
        // If it was one connection only, it is back in no time.
        self.pace.nudge();
    }

    fn advance(&self, stay: u64) -> bool {
        let swap = self.stay.compare_exchange(stay, stay + 1, Ordering::AcqRel, Ordering::Relaxed);
        swap.is_ok()
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

fn is_in_rotation(stay: u64) -> bool {
    stay % 2 == 1
}

/// What a connection borrowed from a replica has with it.
pub(super) struct Loan {
    replica: Arc<Replica>,
    stay: u64,
    primary: Arc<Primary>,
}

impl Loan {
    fn new(replica: Arc<Replica>, stay: u64, primary: Arc<Primary>) -> Self {
        replica.load.fetch_add(1, Ordering::Relaxed);
        Self { replica, stay, primary }
    }

    /// Completes when the replica gets lost.
    pub(super) async fn lost(&self) {
        self.replica.left(self.stay).await;
    }

    /// Says that the connection broke.
    pub(super) fn report(&self, error: &sqlx::Error) {
        self.replica.lose(self.stay, &error.to_string());
    }

    /// A connection to go on with.
    ///
    /// # Errors
    /// As [`Primary::for_moved`].
    pub(super) async fn at_primary(&self) -> Result<Conn, Error> {
        self.primary.for_moved().await
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.replica.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;
    use crate::platform::{breaker::Breakers, db::target::Target};

    fn replica() -> Replica {
        let metrics = Metrics::new().unwrap();
        let queries = metrics.seconds_vec("queries", "queries", &["pool", "query"]).unwrap();
        let breaker = Breakers::new(&metrics).unwrap().named("replica-1");
        let target = Target::new("replica-1", breaker, &queries);
        let acquire = metrics.seconds("acquire", "acquire").unwrap();
        let limit = Duration::from_secs(1);
        let pool = Pool::new(target, PgConnectOptions::new(), 1, limit, acquire).unwrap();
        Replica::new(pool, Gauges::families(&metrics).unwrap()("replica-1"))
    }

    const NO_LAG: Lag = Lag { time: Duration::ZERO, bytes: 0 };

    #[test]
    fn a_position_vouches_for_a_moment_only() {
        let replica = replica();
        replica.note(0, Lsn(10), &NO_LAG);
        replica.join(0);
        assert!(replica.serves(Lsn(10)) && !replica.serves(Lsn(11)));
        // As if it had been seen long ago.
        let past = Instant::now().checked_sub(GOOD_FOR * 2).unwrap();
        let replica = Replica { epoch: past, ..replica };
        assert!(!replica.serves(Lsn(10)));
        assert!(replica.serves(Lsn::default()), "who needs no position is served");
    }

    #[test]
    fn a_look_from_before_it_was_lost_does_not_bring_it_back() {
        let replica = replica();
        replica.join(0);
        let stay = replica.stay();
        // The look begins here, and the server goes down before it is noted.
        replica.lose(stay, "gone");
        replica.note(stay, Lsn(10), &NO_LAG);
        replica.join(stay);
        assert!(!replica.is_in_rotation());
        let stay = replica.stay();
        replica.note(stay, Lsn(5), &NO_LAG);
        replica.join(stay);
        assert!(replica.serves(Lsn(5)));
        assert!(!replica.serves(Lsn(10)), "it may come back behind where it was");
    }

    #[test]
    fn the_end_of_a_stay_is_told_once() {
        let replica = replica();
        replica.join(0);
        let first = replica.stay();
        replica.lose(first, "gone");
        replica.join(replica.stay());
        replica.lose(first, "a connection of the first stay broke");
        assert!(replica.is_in_rotation());
    }
}
