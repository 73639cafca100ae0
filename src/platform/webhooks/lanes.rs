//! How many requests to one receiver may be under way in this process.
//!
//! All receivers share the slots of a queue. One that answers quickly may have many of them, and
//! whoever finds its lane full waits there for a moment. One that does not answer loses its lane
//! bit by bit, and what it has no room for is put off, so that it leaves the slots to the others.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use moka::sync::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use uuid::Uuid;

/// Requests to a receiver that nothing is known of: a dozen such at once, none of which answers,
/// cannot fill a queue of 256.
const FIRST: usize = 16;
const MOST: usize = 64;
const LEAST: usize = 2;

/// A receiver that takes longer is slow.
const QUICK: Duration = Duration::from_secs(1);

/// How long to wait for a place in the lane of a receiver that is not known to be slow.
const PATIENCE: Duration = Duration::from_millis(250);

/// For how long something is put off. The bound is what a receiver that has become well again
/// may have to wait for.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(100);

/// After this long without a request a receiver is forgotten.
const FORGET: Duration = Duration::from_secs(600);

pub(super) struct Lanes(Cache<Uuid, Arc<Lane>>);

struct Lane {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// Places there are to be.
    width: usize,
    /// Places that go when they are left.
    surplus: usize,
    is_slow: bool,
    /// What a place takes a request, divided by the places.
    pace: Duration,
    /// When the last one that was put off will have its turn.
    turn: Instant,
}

/// The right to one request.
pub struct Place {
    lane: Arc<Lane>,
    permit: Option<OwnedSemaphorePermit>,
    since: Instant,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self(Cache::builder().time_to_idle(FORGET).build())
    }

    /// # Errors
    /// There is no room: how long to put it off.
    pub(super) async fn enter(&self, receiver: Uuid) -> Result<Place, Duration> {
        let lane = self.0.get_with(receiver, || Arc::new(Lane::new()));
        let places = lane.places.clone();
        let permit = match places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if lane.state().is_slow => return Err(lane.put_off()),
            Err(_) => match timeout(PATIENCE, places.acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => {
                    // Nobody has left in this time: whoever comes next need not wait as well.
                    lane.state().is_slow = true;
                    return Err(lane.put_off());
                }
            },
        };
        Ok(Place { lane, permit: Some(permit), since: Instant::now() })
    }
}

impl Lane {
    fn new() -> Self {
        let (pace, turn) = (QUICK / FIRST as u32, Instant::now());
        let state = State { width: FIRST, surplus: 0, is_slow: false, pace, turn };
        Self { places: Arc::new(Semaphore::new(FIRST)), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One after the other, at the pace at which there will be room.
    fn put_off(&self) -> Duration {
        let mut state = self.state();
        let now = Instant::now();
        let turn = state.turn.max(now) + state.pace;
        let delay = turn - now;
        if delay > LONGEST {
            return LONGEST.mul_f64(rand::random_range(0.5..1.0));
        }
        state.turn = turn;
        delay.max(SHORTEST)
    }
}

impl State {
    /// Learns from a request that took `took`: whether there is to be one place more.
    fn learn(&mut self, took: Duration) -> bool {
        self.is_slow = took > QUICK;
        let mut is_wider = false;
        if self.is_slow {
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
        self.pace = took / self.width as u32;
        is_wider
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        if state.learn(self.since.elapsed()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(lanes: &Lanes, receiver: Uuid, count: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(lanes.enter(receiver).await.ok().unwrap());
        }
        places
    }

    /// As if the request had taken so long.
    fn leave(mut place: Place, took: Duration) {
        place.since = Instant::now().checked_sub(took).unwrap();
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_answer_leaves_the_slots_to_others() {
        let (lanes, slow, other) = (Lanes::new(), Uuid::now_v7(), Uuid::now_v7());
        let places = fill(&lanes, slow, FIRST).await;
        assert!(lanes.enter(slow).await.is_err(), "more than its share");
        fill(&lanes, other, FIRST).await;
        for place in places {
            leave(place, Duration::from_secs(15));
        }
        let narrow = fill(&lanes, slow, LEAST).await;
        let mut delays = Vec::new();
        for _ in 0..100 {
            delays.push(lanes.enter(slow).await.err().unwrap());
        }
        assert!(delays[0] > Duration::from_secs(5), "one at a time: {delays:?}");
        assert!(delays.iter().all(|delay| *delay <= LONGEST + QUICK), "{delays:?}");
        // It is well again.
        for place in narrow {
            leave(place, Duration::ZERO);
        }
        for _ in 0..MOST {
            leave(lanes.enter(slow).await.ok().unwrap(), Duration::ZERO);
        }
        fill(&lanes, slow, MOST).await;
    }

    #[tokio::test]
    async fn a_quick_receiver_is_waited_for() {
        let (lanes, quick) = (Lanes::new(), Uuid::now_v7());
        let mut places = fill(&lanes, quick, FIRST).await;
        let place = places.pop().unwrap();
        let (entered, ()) =
            tokio::join!(lanes.enter(quick), async { leave(place, Duration::ZERO) });
        assert!(entered.is_ok());
    }
}
