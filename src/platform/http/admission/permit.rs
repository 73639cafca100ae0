//! The place that a request takes among those in progress, until its answer or its end.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
};

use futures::poll;
use http::StatusCode;

use super::Inner;
use crate::platform::concurrency::{Ended, Outcome, Priority};

/// Dropping it without an answer gives the place back as well: a client hung up, or a deadline
/// has passed.
pub(super) struct Permit {
    admission: Arc<Inner>,
    route: usize,
    priority: Priority,
    began: u64,
    outcome: Outcome,
    waited: Option<Arc<AtomicU64>>,
}

impl Permit {
    pub(super) fn new(admission: Arc<Inner>, route: usize, priority: Priority) -> Self {
        let began = admission.now();
        Self { admission, route, priority, began, outcome: Outcome::Failed, waited: None }
    }

    /// The head of the answer is there. Its body is the client's to read at leisure, so a stream
    /// or a slow reader holds no place.
    pub(super) fn answered(mut self, status: StatusCode) {
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            self.outcome = Outcome::Succeeded;
        }
    }

    /// For whoever reads the body of the request.
    pub(super) fn wait_for_client(&mut self) -> ClientWait {
        let waited = self.waited.get_or_insert_default().clone();
        ClientWait { admission: self.admission.clone(), route: self.route, waited }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let limiter = &self.admission.limiter;
        limiter.leave(self.route);
        let client = self.waited.as_ref().map_or(0, |waited| waited.load(Relaxed));
        let ended = Ended {
            priority: self.priority,
            began: self.began,
            ended: self.admission.now(),
            client,
            outcome: self.outcome,
        };
        limiter.learn(self.route, &ended);
    }
}

/// Lends the place of a request to others while it waits for its client. Otherwise a few hundred
/// clients that send their bodies byte by byte would keep everybody out, and their time would
/// be taken for ours.
#[derive(Clone)]
pub(in crate::platform::http) struct ClientWait {
    admission: Arc<Inner>,
    route: usize,
    /// Microseconds.
    waited: Arc<AtomicU64>,
}

impl ClientWait {
    /// Runs `work`, which does nothing but wait for the client.
    pub(in crate::platform::http) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Most bodies have come along with their heads.
        if let Poll::Ready(done) = poll!(work.as_mut()) {
            return done;
        }
        let _lent = Lent::new(self);
        work.await
    }
}

/// Takes the place back when it is dropped, be it because the time is up.
struct Lent<'a> {
    wait: &'a ClientWait,
    since: u64,
}

impl<'a> Lent<'a> {
    fn new(wait: &'a ClientWait) -> Self {
        wait.admission.limiter.leave(wait.route);
        Self { wait, since: wait.admission.now() }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let ClientWait { admission, route, waited } = self.wait;
        waited.fetch_add(admission.now() - self.since, Relaxed);
        admission.limiter.reenter(*route);
    }
}
