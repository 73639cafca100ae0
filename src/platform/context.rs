//! What travels with a request (or a job) through every call it makes: its id, its trace and
//! its deadline. Held in a task-local, since it belongs to the work, not to any one function,
//! and forgetting to pass it on must not be possible.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::db::Lsn;

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

#[derive(Debug)]
pub struct Context {
    /// Echoed as `X-Request-Id`, logged, and stored with every event.
    pub request_id: String,
    /// The W3C `traceparent` that came in, if it was well-formed.
    pub traceparent: Option<String>,
    /// When the answer is no longer wanted. Calls to dependencies get what is left of it.
    pub deadline: Instant,
    /// The position of the newest commit that was made on behalf of this work; 0 without one.
    committed: AtomicU64,
    /// Some entry of a cache that it made stale could not be evicted.
    left_stale: AtomicBool,
}

impl Context {
    pub fn new(request_id: String, traceparent: Option<String>, deadline: Instant) -> Self {
        let (committed, left_stale) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { request_id, traceparent, deadline, committed, left_stale }
    }

    /// Up to where the log has to be replayed for one's own writes to be seen, if there were any.
    pub fn committed(&self) -> Option<Lsn> {
        Some(Lsn(self.committed.load(Ordering::Acquire))).filter(|lsn| lsn.0 > 0)
    }

    /// Whether a cache may hold what this work has replaced.
    pub fn has_left_stale(&self) -> bool {
        self.left_stale.load(Ordering::Acquire)
    }

    /// Runs `work` with this context as the current one.
    pub async fn scope<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self, work).await
    }

    /// The context of the running task; `None` outside of requests and jobs.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }
}

/// What is done for a request after its answer has begun, such as to read what follows: outside of
/// its task, and each time with as much time as was left when this was made. Cheap to clone.
#[derive(Clone)]
pub struct Budget {
    request: Option<Arc<Context>>,
    left: Duration,
}

impl Budget {
    /// That of the running request; unlimited outside of any.
    pub fn of_request() -> Self {
        let request = Context::current();
        let left = remaining(Duration::MAX);
        Self { request, left }
    }

    /// Runs `work` on behalf of the request.
    pub async fn scope<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(request) = &self.request else { return work.await };
        let (id, trace) = (request.request_id.clone(), request.traceparent.clone());
        let context = Context::new(id, trace, Instant::now() + self.left);
        Arc::new(context).scope(work).await
    }
}

/// Remembers that something was committed at `lsn` for the running request or job.
pub fn note_commit(lsn: Lsn) {
    let _ = CURRENT.try_with(|context| context.committed.fetch_max(lsn.0, Ordering::AcqRel));
}

/// Remembers that a cache may hold what the running request or job has replaced.
pub fn note_left_stale() {
    let _ = CURRENT.try_with(|context| context.left_stale.store(true, Ordering::Release));
}

/// `limit`, or what is left until the deadline if that is less.
pub fn remaining(limit: Duration) -> Duration {
    CURRENT
        .try_with(|context| context.deadline.saturating_duration_since(Instant::now()))
        .map_or(limit, |left| left.min(limit))
}

/// Whether the deadline has passed; never outside of requests and jobs.
pub fn is_over() -> bool {
    CURRENT.try_with(|context| context.deadline <= Instant::now()).unwrap_or(false)
}

/// Whether `value` is safe to log and echo as a request id: 1 to 128 plain characters.
pub fn is_sane_request_id(value: &str) -> bool {
    (1..=128).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte))
}

/// Whether `value` is a version 00 `traceparent` (W3C Trace Context, 3.2).
pub fn is_traceparent(value: &str) -> bool {
    let mut parts = value.split('-');
    let mut hex = |length: usize| {
        parts.next().is_some_and(|part| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let lengths = hex(2) && hex(32) && hex(16) && hex(2);
    lengths
        && value.starts_with("00-")
        && parts.next().is_none()
        // All-zero ids are invalid.
        && value[3..35].bytes().any(|byte| byte != b'0')
        && value[36..52].bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_well_formed_ids() {
        assert!(is_sane_request_id("01J-abc.def"));
        for bad in ["", "a b", "line\nbreak", &"x".repeat(129), "naïve"] {
            assert!(!is_sane_request_id(bad), "{bad:?}");
        }
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
