//! How many requests to one receiver may be under way in this process.
//!
//! All receivers share the slots of a queue. One that answers quickly may have many of them, and
//! whoever finds its lane full waits there for a moment. One that does not answer loses its lane
//! bit by bit, and what it has no room for is put off, so that it leaves the slots to the others.
//!
//! Receivers that are not known to be quick are in doubt, and have half of the slots together, however
//! many they are. Each of them has a place nearly always: by that it shows what it is.

#[cfg(test)]
mod tests;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use uuid::Uuid;

/// Requests to a receiver that nothing is known of. Each quick answer makes room for one more, so
/// that it doubles with every round trip.
const FIRST: usize = 4;
const MOST: usize = 64;
const LEAST: usize = 2;

/// Requests to receivers in doubt, all together: half of a queue of 256.
const MOST_IN_DOUBT: usize = 128;

/// Up to so many a receiver in doubt may have a second one: a hundred receivers still have one each.
const SEVERAL_IN_DOUBT: usize = 28;

/// A receiver that takes longer is slow.
const QUICK: Duration = Duration::from_secs(1);

/// How long to wait in a full lane until somebody leaves it. While it moves, the wait goes on.
const PATIENCE: Duration = Duration::from_millis(250);
const MOST_WAITS: u32 = 4;

/// Between two that are put off while nothing is known of a receiver's pace.
const FIRST_PACE: Duration = Duration::from_millis(60);

/// For how long something is put off. The bound is what a receiver that has become well again
/// may have to wait for.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(100);

/// After this long without a request a receiver is forgotten.
const FORGET: Duration = Duration::from_secs(600);

pub(super) struct Lanes {
    lanes: Cache<Uuid, Arc<Lane>>,
    /// Places of receivers in doubt.
    in_doubt: Arc<AtomicUsize>,
}

struct Lane {
    places: Arc<Semaphore>,
    /// Of its places those that were taken in doubt.
    in_doubt: AtomicUsize,
    state: Mutex<State>,
}

/// What a receiver has shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Quick,
    Slow,
}

struct State {
    /// Places there are to be.
    width: usize,
    /// Places that go when they are left.
    surplus: usize,
    standing: Standing,
    /// How long a request takes, divided by the places there will be.
    pace: Duration,
    /// When the last one that was put off will have its turn.
    turn: Instant,
    /// When a place was last taken or left.
    moved: Instant,
}

/// The right to one request.
pub struct Place {
    lane: Arc<Lane>,
    permit: Option<OwnedSemaphorePermit>,
    /// Kept until the place is left.
    _doubt: Option<Doubt>,
    /// When the request was begun, if it was.
    since: Option<Instant>,
    is_answered: bool,
}

/// A place among those of receivers in doubt.
struct Doubt {
    lane: Arc<Lane>,
    all: Arc<AtomicUsize>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        let lanes = Cache::builder().time_to_idle(FORGET).build();
        Self { lanes, in_doubt: Arc::default() }
    }

    /// # Errors
    /// There is no room: how long to put it off.
    pub(super) async fn enter(&self, receiver: Uuid) -> Result<Place, Duration> {
        let lane = self.lanes.get_with(receiver, || Arc::new(Lane::new()));
        let permit = match lane.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => lane.wait().await?,
        };
        let is_quick = lane.state().standing == Standing::Quick;
        let doubt = if is_quick { None } else { self.doubt(&lane) };
        if !is_quick && doubt.is_none() {
            return Err(lane.put_off());
        }
        lane.state().moved();
        Ok(Place { lane, permit: Some(permit), _doubt: doubt, since: None, is_answered: false })
    }

    fn doubt(&self, lane: &Arc<Lane>) -> Option<Doubt> {
        let is_first = lane.in_doubt.load(Ordering::Relaxed) == 0;
        let limit = if is_first { MOST_IN_DOUBT } else { SEVERAL_IN_DOUBT };
        let one_more = |count: usize| (count < limit).then_some(count + 1);
        self.in_doubt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        lane.in_doubt.fetch_add(1, Ordering::Relaxed);
        Some(Doubt { lane: lane.clone(), all: self.in_doubt.clone() })
    }
}

impl Lane {
    fn new() -> Self {
        let (standing, now) = (Standing::Unknown, Instant::now());
        let state =
            State { width: FIRST, surplus: 0, standing, pace: FIRST_PACE, turn: now, moved: now };
        Self {
            places: Arc::new(Semaphore::new(FIRST)),
            in_doubt: AtomicUsize::new(0),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place that somebody leaves.
    ///
    /// # Errors
    /// Nobody does, or others were first: how long to put it off.
    async fn wait(&self) -> Result<OwnedSemaphorePermit, Duration> {
        let mut place = pin!(self.places.clone().acquire_owned());
        for _ in 0..MOST_WAITS {
            if self.state().is_stuck() {
                break;
            }
            if let Ok(Ok(permit)) = timeout(PATIENCE, &mut place).await {
                return Ok(permit);
            }
        }
        Err(self.put_off())
    }

    /// One after the other, at the pace at which there will be room.
    fn put_off(&self) -> Duration {
        let mut state = self.state();
        let now = Instant::now();
        if state.standing == Standing::Unknown && now - state.moved < QUICK {
            // It may turn out to be quick, and then there is room for all.
            return QUICK.mul_f64(rand::random_range(0.5..1.0));
        }
        // Those that are under way take no less than since when nobody has left.
        let pace = state.pace.max((now - state.moved) / MOST as u32);
        let turn = state.turn.max(now) + pace;
        let delay = turn - now;
        if delay > LONGEST {
            return LONGEST.mul_f64(rand::random_range(0.5..1.0));
        }
        state.turn = turn;
        delay.max(SHORTEST)
    }
}

impl State {
    fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Whoever comes to a full lane need not wait.
    fn is_stuck(&self) -> bool {
        self.standing == Standing::Slow || self.moved.elapsed() >= PATIENCE
    }

    /// Learns from a request that took `took`: whether there is to be one place more.
    fn learn(&mut self, took: Duration) -> bool {
        self.standing = if took > QUICK { Standing::Slow } else { Standing::Quick };
        let mut is_wider = false;
        if self.standing == Standing::Slow {
            let narrower = (self.width / 2).max(LEAST);
            self.surplus += self.width - narrower;
            self.width = narrower;
        } else {
            self.turn = Instant::now();
            if self.width < MOST {
                self.width += 1;
                is_wider = self.surplus == 0;
                self.surplus = self.surplus.saturating_sub(1);
            }
        }
        // One that is quick will have all of its places by the time that whoever is put off comes.
        let places = if self.standing == Standing::Quick { MOST } else { self.width };
        self.pace = took / places as u32;
        is_wider
    }
}

impl Place {
    /// The request is sent from now on.
    pub(super) fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// It has come to its end, whichever.
    pub(super) fn end(mut self) {
        self.is_answered = true;
    }

    /// What there is to learn: nothing from a place that was left without a request, and from a
    /// request that was given up no more than that it took too long already.
    fn took(&self) -> Option<Duration> {
        let took = self.since?.elapsed();
        (self.is_answered || took > QUICK).then_some(took)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.moved();
        if self.took().is_some_and(|took| state.learn(took)) {
            self.lane.places.add_permits(1);
        }
        if state.surplus > 0 {
            state.surplus -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        self.lane.in_doubt.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}
