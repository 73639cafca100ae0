//! How many requests this process works on at the same time, found by measuring, and who goes
//! first when that is not enough.
//!
//! Past some number, more requests at once make all of them slower and none of them sooner. Where
//! that is depends on the machine, the database and what is asked, so it is not configured:
//!
//! - Every route knows the shortest time in which it lately succeeded. A request that takes more
//!   than twice that **and** 100 ms on top is *late*: it waited for others.
//! - Requests vote as they end. When more than a quarter of them were late, the limit shrinks to
//!   the part that would have been in time; else it grows, doubling within 0.8 s at the fastest.
//! - Who began before the last cut has no vote: it saw the queue that the cut was made for.
//!   Without this one slow second would cut the limit again and again.
//! - It stays within bounds. It begins at the upper one, and only lateness takes it from there.
//!
//! Lower priorities see a smaller part of the limit, so they are the first to be refused. No
//! route may hold more than three quarters: one that stalls leaves room for the others.
//!
//! Time is passed in, in microseconds since any fixed moment, so that tests can simulate hours.

mod pace;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use self::pace::{Votes, allowed, next_limit};

/// How often the limit is reconsidered: long enough for some requests to end, short beside the
/// patience of a client.
const WINDOW: u64 = 100_000;

/// Fewer do not speak for the others.
const QUORUM: u32 = 8;

/// The shortest time of a route rises by a tenth this often, so that a route that has become
/// slower for good is not called late for ever, while an overload of some minutes is.
const FORGET: u64 = 60_000_000;

/// What one route may hold of the limit, in percent.
const ROUTE_SHARE: usize = 75;

/// No request of the route has succeeded yet, so none can be called late.
const UNKNOWN: u64 = u64::MAX;

/// Who goes first, by what would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Somebody changes something, such as a customer who orders or logs in. Refused last.
    Write,
    /// A page somebody waits for. Refused from 90 % of the limit.
    Read,
    /// What can be asked for later: lists for staff, trails. Refused from 50 % of the limit.
    Report,
}

/// How far the limit may go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub min: usize,
    pub max: usize,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its time tells what the route can do.
    Succeeded,
    /// A refusal or an error: quick ones say nothing about the route, slow ones are late.
    Failed,
}

/// A request that has ended. Times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub priority: Priority,
    pub began: u64,
    pub ended: u64,
    /// How much of the time it waited for its client.
    pub client: u64,
    pub outcome: Outcome,
}

/// Counts what is in progress, and decides about the next one. Atomics only.
pub struct Limiter {
    bounds: Bounds,
    limit: AtomicUsize,
    in_progress: AtomicUsize,
    routes: Box<[Route]>,
    votes: Votes,
    window_ends: AtomicU64,
    last_cut: AtomicU64,
    forgets_at: AtomicU64,
}

struct Route {
    in_progress: AtomicUsize,
    /// The shortest time to success, in microseconds.
    shortest: AtomicU64,
}

impl Priority {
    pub const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Report];

    /// As in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Report => "report",
        }
    }

    /// What may be in progress, in percent of the limit, for one of these to come in.
    fn share(self) -> usize {
        match self {
            Self::Write => 100,
            Self::Read => 90,
            Self::Report => 50,
        }
    }
}

impl Limiter {
    /// `routes` are told apart by their index.
    pub fn new(bounds: Bounds, routes: usize) -> Self {
        let route = || Route { in_progress: AtomicUsize::new(0), shortest: UNKNOWN.into() };
        Self {
            bounds,
            limit: bounds.max.into(),
            in_progress: AtomicUsize::new(0),
            routes: (0..routes).map(|_| route()).collect(),
            votes: Votes::default(),
            window_ends: AtomicU64::new(0),
            last_cut: AtomicU64::new(0),
            forgets_at: FORGET.into(),
        }
    }

    /// Whether a request may come in. If so, `leave` must follow.
    pub fn enter(&self, route: usize, priority: Priority) -> bool {
        let limit = self.limit();
        // Counted first and taken back: two at once may both be refused the last place, and
        // never both get it.
        if self.in_progress.fetch_add(1, Relaxed) >= part(limit, priority.share()) {
            self.in_progress.fetch_sub(1, Relaxed);
            return false;
        }
        let on_route = &self.routes[route].in_progress;
        if on_route.fetch_add(1, Relaxed) >= part(limit, ROUTE_SHARE) {
            self.leave(route);
            return false;
        }
        true
    }

    /// Comes back after a `leave` that was for a while only. Never refused: it has been let in.
    pub fn reenter(&self, route: usize) {
        self.in_progress.fetch_add(1, Relaxed);
        self.routes[route].in_progress.fetch_add(1, Relaxed);
    }

    pub fn leave(&self, route: usize) {
        self.routes[route].in_progress.fetch_sub(1, Relaxed);
        self.in_progress.fetch_sub(1, Relaxed);
    }

    /// Takes the vote of a request that has ended.
    pub fn learn(&self, route: usize, request: &Ended) {
        let took = request.ended.saturating_sub(request.began).saturating_sub(request.client);
        let shortest = &self.routes[route].shortest;
        if request.outcome == Outcome::Succeeded && took < shortest.load(Relaxed) {
            shortest.fetch_min(took, Relaxed);
        }
        // A report takes as long as there is to tell: that says nothing about the others.
        if request.priority != Priority::Report && request.began >= self.last_cut.load(Relaxed) {
            self.votes.cast(took, allowed(shortest.load(Relaxed)));
        }
        if request.ended >= self.window_ends.load(Relaxed) {
            self.reconsider(request.ended);
        }
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Requests that are let in and have no answer yet.
    pub fn in_progress(&self) -> usize {
        self.in_progress.load(Relaxed)
    }

    fn reconsider(&self, now: u64) {
        let due = self.window_ends.load(Relaxed);
        if self.votes.count() < QUORUM
            || self.window_ends.compare_exchange(due, now + WINDOW, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let old = self.limit();
        let since = WINDOW + now.saturating_sub(due);
        let new =
            next_limit(old, &self.votes.take(), since).clamp(self.bounds.min, self.bounds.max);
        self.limit.store(new, Relaxed);
        if new < old {
            self.last_cut.store(now, Relaxed);
        }
        let forgets_at = self.forgets_at.load(Relaxed);
        if now >= forgets_at {
            self.forgets_at.store(now + FORGET, Relaxed);
            for route in &self.routes {
                let forget = |time| (time != UNKNOWN).then(|| time + time / 10);
                let _ = route.shortest.fetch_update(Relaxed, Relaxed, forget);
            }
        }
    }
}

/// So many percent, but never nothing.
fn part(limit: usize, percent: usize) -> usize {
    (limit * percent / 100).max(1)
}
