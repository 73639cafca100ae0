//! Judges the replicas by what the samplers saw.

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    lsn::Lsn,
    position::{History, Position},
    primary::Primary,
    replica::{Lag, Replica},
};

pub(super) struct Cluster {
    primary: Arc<Primary>,
    replicas: Vec<Arc<Replica>>,
    max_lag: Duration,
    /// Used by the samplers only, never by a request.
    seen: Mutex<Seen>,
    /// Where the primary was when it was last seen, for requests.
    newest: AtomicU64,
    /// Told whenever a replica's position is known anew.
    arrived: Notify,
}

struct Seen {
    /// Set by the first look at the primary, whether or not it answered: until then nobody can
    /// tell how far behind a replica is.
    has_looked: bool,
    primary: Option<Lead>,
    replicas: Vec<Option<Follower>>,
}

/// The primary, as last seen. Kept while it is away.
struct Lead {
    system: i64,
    timeline: i32,
    newest: Lsn,
    is_up: bool,
    history: History,
}

struct Follower {
    position: Position,
    /// When the look that saw it ended.
    at: Instant,
    lineage: Lineage,
}

/// Whether a replica has only what the primary wrote. A replica seen after the primary may know
/// more than the primary had then, so only a later look at the primary can tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lineage {
    Unknown,
    Sound,
    Ahead,
}

type Objection = Cow<'static, str>;

impl Cluster {
    pub(super) fn new(
        primary: Arc<Primary>,
        replicas: Vec<Arc<Replica>>,
        max_lag: Duration,
    ) -> Self {
        let followers = replicas.iter().map(|_| None).collect();
        let seen = Mutex::new(Seen { has_looked: false, primary: None, replicas: followers });
        let (newest, arrived) = (AtomicU64::new(0), Notify::new());
        Self { primary, replicas, max_lag, seen, newest, arrived }
    }

    /// How far the log of the primary was when it was last seen.
    pub(super) fn newest(&self) -> Lsn {
        Lsn(self.newest.load(Ordering::Acquire))
    }

    /// Completes at the next sample of a replica after this call.
    pub(super) fn next_sample(&self) -> tokio::sync::futures::Notified<'_> {
        self.arrived.notified()
    }

    /// Whether the primary answered the last look, as the primary.
    pub(super) fn is_primary_up(&self) -> bool {
        self.seen().primary.as_ref().is_some_and(|lead| lead.is_up)
    }

    /// Notes what a look at the primary saw that began at `asked`.
    pub(super) fn note_primary(&self, asked: Instant, look: Result<Position, String>) {
        let target = self.primary.pool.target();
        let mut seen = self.seen();
        seen.has_looked = true;
        let Seen { primary, replicas, .. } = &mut *seen;
        let position = match look {
            Ok(position) if !position.is_in_recovery => position,
            look => {
                match look {
                    // It answers, but of what a standby knows nothing may be taken for the truth.
                    Ok(_) => target.demote(),
                    Err(_) => {
                        target.breaker.record_failure();
                        self.primary.pool.forget_idle();
                    }
                }
                if let Some(lead) = primary {
                    lead.is_up = false;
                }
                return;
            }
        };
        target.confirm();
        target.breaker.record_success();
        let Position { system, timeline, lsn, .. } = position;
        let is_new = !primary.as_ref().is_some_and(|lead| {
            lead.system == system && lead.timeline == timeline && lead.newest <= lsn
        });
        if is_new {
            // The first, or another: what was known of positions means nothing any more.
            *primary = None;
        }
        let lead = primary.get_or_insert_with(|| {
            let history = History::new(lsn, Instant::now(), self.max_lag);
            Lead { system, timeline, newest: lsn, is_up: true, history }
        });
        (lead.newest, lead.is_up) = (lsn, true);
        self.newest.store(lsn.0, Ordering::Release);
        lead.history.push(lsn, Instant::now());
        for (replica, follower) in self.replicas.iter().zip(replicas) {
            let Some(follower) = follower else { continue };
            follower.lineage = match follower.position.lsn <= lsn {
                true => Lineage::Sound,
                false if asked > follower.at => Lineage::Ahead,
                false if is_new => Lineage::Unknown,
                false => follower.lineage,
            };
            if let Some(objection) = lead.objection(follower) {
                replica.leave(&objection);
            }
        }
    }

    /// Notes what a look at a replica saw that began while its count of stays was `stay`.
    pub(super) fn note_replica(&self, index: usize, stay: u64, look: Result<Position, String>) {
        let replica = &self.replicas[index];
        let mut seen = self.seen();
        let Seen { has_looked, primary, replicas } = &mut *seen;
        let position = match look {
            Ok(position) => position,
            Err(why) => {
                replicas[index] = None;
                replica.pool.target().breaker.record_failure();
                replica.lose(stay, &why);
                return;
            }
        };
        replica.pool.target().breaker.record_success();
        let lsn = position.lsn;
        let lineage = match (&*primary, &replicas[index]) {
            (Some(lead), _) if lsn <= lead.newest => Lineage::Sound,
            (_, Some(before)) => before.lineage,
            _ => Lineage::Unknown,
        };
        let follower = replicas[index].insert(Follower { position, at: Instant::now(), lineage });
        let (lag, objection) = judge(primary.as_ref(), follower, self.max_lag);
        replica.note(stay, lsn, &lag);
        match objection {
            None if *has_looked => replica.join(stay),
            None => {}
            Some(objection) => replica.leave(&objection),
        }
        drop(seen);
        self.arrived.notify_waiters();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far behind a replica is, and why it may not be read from, if so.
fn judge(lead: Option<&Lead>, follower: &Follower, max_lag: Duration) -> (Lag, Option<Objection>) {
    let position = &follower.position;
    let Some(lead) = lead else {
        // A primary that was never seen: better the catalogue of yesterday than none.
        let promoted = (!position.is_in_recovery).then_some("it is no standby".into());
        return (Lag { time: Duration::ZERO, bytes: 0 }, promoted);
    };
    let bytes = lead.newest.0.saturating_sub(position.lsn.0);
    let lag = lead.history.lag(position.lsn);
    let time = lag.unwrap_or(lead.history.length());
    let objection = lead.objection(follower).or_else(|| {
        if position.is_paused && bytes > 0 {
            Some("its replay is paused".into())
        } else if lag.is_none() {
            Some("it has not yet replayed what was there when this process began".into())
        } else if time > max_lag {
            Some(format!("it is {} ms behind", time.as_millis()).into())
        } else {
            None
        }
    });
    (Lag { time, bytes }, objection)
}

impl Lead {
    /// Why a server's data is not that of this primary at an earlier time.
    fn objection(&self, follower: &Follower) -> Option<Objection> {
        let Position { is_in_recovery, timeline, system, .. } = follower.position;
        if !is_in_recovery {
            Some("it is no standby".into())
        } else if system != self.system {
            Some("it belongs to another cluster".into())
        } else if timeline < self.timeline || (timeline > self.timeline && self.is_up) {
            // A newer one while the primary is away is its successor's, which the configuration
            // is yet to name. With the primary there, the two have parted.
            let primary = self.timeline;
            Some(format!("it is on timeline {timeline}, the primary on {primary}").into())
        } else {
            match follower.lineage {
                Lineage::Ahead => Some("it has replayed what the primary never wrote".into()),
                Lineage::Unknown if self.is_up => Some("it was not compared yet".into()),
                Lineage::Unknown | Lineage::Sound => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMELINE: i32 = 7;

    fn lead() -> Lead {
        let (newest, now) = (Lsn(100), Instant::now());
        let history = History::new(newest, now, Duration::from_secs(5));
        Lead { system: 1, timeline: TIMELINE, newest, is_up: true, history }
    }

    fn follower() -> Follower {
        let position = Position {
            is_in_recovery: true,
            lsn: Lsn(100),
            timeline: TIMELINE,
            system: 1,
            is_paused: false,
        };
        Follower { position, at: Instant::now(), lineage: Lineage::Sound }
    }

    #[test]
    fn only_copies_of_the_primary_are_read_from() {
        let lead = lead();
        assert_eq!(lead.objection(&follower()), None);
        let objects = |change: fn(&mut Follower)| {
            let mut follower = follower();
            change(&mut follower);
            lead.objection(&follower).is_some()
        };
        assert!(objects(|other| other.position.system = 2));
        assert!(objects(|behind| behind.position.timeline = TIMELINE - 1));
        assert!(objects(|parted| parted.position.timeline = TIMELINE + 1));
        assert!(objects(|promoted| promoted.position.is_in_recovery = false));
        assert!(objects(|ahead| ahead.lineage = Lineage::Ahead));
        assert!(objects(|unknown| unknown.lineage = Lineage::Unknown));
    }

    #[test]
    fn while_the_primary_is_away_its_successors_replicas_will_do() {
        let lead = Lead { is_up: false, ..lead() };
        let mut follower = follower();
        follower.position.timeline = TIMELINE + 1;
        assert_eq!(lead.objection(&follower), None);
        follower.position.timeline = TIMELINE - 1;
        assert!(lead.objection(&follower).is_some(), "those of its predecessor will not");
    }

    #[test]
    fn a_pause_matters_to_who_is_behind() {
        let limit = Duration::from_secs(5);
        let mut follower = follower();
        follower.position.is_paused = true;
        assert_eq!(judge(Some(&lead()), &follower, limit).1, None);
        let mut lead = lead();
        (lead.newest, follower.position.is_paused) = (Lsn(101), true);
        lead.history.push(Lsn(101), Instant::now());
        assert!(judge(Some(&lead), &follower, limit).1.is_some());
        follower.position.is_paused = false;
        assert_eq!(judge(Some(&lead), &follower, limit).1, None);
    }
}
