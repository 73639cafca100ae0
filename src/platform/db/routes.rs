//! Where a read goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::{IntCounter, IntCounterVec};
use tokio::time::{Instant, timeout_at};

use super::{
    Consistency, cluster::Cluster, conn::Conn, error::Error, lsn::Lsn, primary::Primary,
    replica::Replica,
};

/// How long a read waits for a replica that is almost there. A commit reaches a standby nearby
/// within a millisecond or two, and a read at the primary takes less than what this costs.
const WAIT: Duration = Duration::from_millis(5);

pub(super) struct Routes {
    pub(super) primary: Arc<Primary>,
    pub(super) replicas: Vec<Arc<Replica>>,
    pub(super) cluster: Cluster,
    /// Where the next read starts its turn around the replicas.
    turn: AtomicUsize,
    reads: Reads,
}

/// `db_reads_total{target,reason}`
pub(super) struct Reads {
    fresh_enough: IntCounter,
    waited: IntCounter,
    own_writes: IntCounter,
    no_replica: IntCounter,
    latest: IntCounter,
}

impl Reads {
    pub(super) fn new(family: &IntCounterVec) -> Self {
        let reads = |target, reason| family.with_label_values(&[target, reason]);
        Self {
            fresh_enough: reads("replica", "fresh_enough"),
            waited: reads("replica", "waited"),
            own_writes: reads("primary", "own_writes"),
            no_replica: reads("primary", "no_replica"),
            latest: reads("primary", "latest"),
        }
    }
}

impl Routes {
    pub(super) fn new(
        primary: Arc<Primary>,
        replicas: Vec<Arc<Replica>>,
        max_lag: Duration,
        reads: Reads,
    ) -> Self {
        let cluster = Cluster::new(primary.clone(), replicas.clone(), max_lag);
        Self { primary, replicas, cluster, turn: AtomicUsize::new(0), reads }
    }

    /// Lets the samplers know that there is something to do.
    pub(super) fn touch(&self) {
        self.primary.pace.touch();
        for replica in &self.replicas {
            replica.pace.touch();
        }
    }

    pub(super) async fn read(&self, consistency: &Consistency) -> Result<Conn, Error> {
        self.touch();
        let needed = match consistency {
            Consistency::Any => Lsn::default(),
            Consistency::AtLeast(lsn) => *lsn,
            Consistency::Latest | Consistency::Uncached => {
                self.reads.latest.inc();
                return self.primary.for_reads().await;
            }
            Consistency::LatestElse(lsn) => {
                self.reads.latest.inc();
                return match self.primary.for_reads().await {
                    Err(error @ Error::Unreachable(..)) => {
                        let needed = self.cluster.newest().max(*lsn);
                        let replica = self.pick(needed).ok_or(error)?;
                        replica.borrow(&self.primary).await
                    }
                    result => result,
                };
            }
        };
        // Each round but the last finds out that a replica is gone.
        for _ in 0..=self.replicas.len() {
            let (replica, reads) = match self.pick(needed) {
                Some(replica) => (replica, &self.reads.fresh_enough),
                None => match self.wait_for(needed).await {
                    Some(replica) => (replica, &self.reads.waited),
                    None => break,
                },
            };
            match replica.borrow(&self.primary).await {
                Ok(conn) => {
                    reads.inc();
                    return Ok(conn);
                }
                // The primary's connections are for writers.
                Err(error @ Error::Busy(_)) => return Err(error),
                Err(_) => {}
            }
        }
        if self.replicas.iter().any(|replica| replica.is_in_rotation()) {
            self.reads.own_writes.inc();
        } else {
            self.reads.no_replica.inc();
        }
        self.primary.for_reads().await
    }

    /// Of the replicas that are far enough the one with the least to do, in turn.
    fn pick(&self, needed: Lsn) -> Option<&Arc<Replica>> {
        let count = self.replicas.len();
        if count == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|offset| &self.replicas[turn.wrapping_add(offset) % count]);
        in_turn.filter(|replica| replica.serves(needed)).min_by_key(|replica| replica.load())
    }

    /// A replica that gets there within a moment.
    async fn wait_for(&self, needed: Lsn) -> Option<&Arc<Replica>> {
        let until = Instant::now() + WAIT;
        loop {
            // Made before the look, so that what happens in between is not missed.
            let arrived = self.cluster.next_sample();
            if !self.nudge_close() {
                return None;
            }
            if let Some(replica) = self.pick(needed) {
                return Some(replica);
            }
            timeout_at(until, arrived).await.ok()?;
        }
    }

    /// Asks those that are close for their position; whether there are any.
    fn nudge_close(&self) -> bool {
        let mut any = false;
        for replica in self.replicas.iter().filter(|replica| replica.is_close()) {
            replica.pace.nudge();
            any = true;
        }
        any
    }
}
