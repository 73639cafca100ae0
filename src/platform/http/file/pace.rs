//! How long a body is waited for.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use http::{StatusCode, request::Parts};
use tokio::time::timeout;

use crate::platform::http::{admission::ClientWait, error::ApiError, json::BodyTimeout};

/// How long a body may take however little of it comes.
const GRACE: Duration = Duration::from_secs(5);

/// What a body has to come with on average from then on, in bytes a second. Slower than any
/// network that one would send a picture by, and too fast for whoever only wants to hold a buffer.
const MIN_RATE: f64 = 32.0 * 1024.0;

/// Counts only the time in which we wait for the client: it cannot send while we do not read.
pub(super) struct Pace {
    client: Option<ClientWait>,
    /// For all of the body.
    limit: Duration,
    waited: Duration,
    received: u64,
}

impl Pace {
    pub(super) fn of(parts: &Parts) -> Self {
        let BodyTimeout(limit) = parts.extensions.get().copied().unwrap_or(BodyTimeout::DEFAULT);
        let client = parts.extensions.get::<ClientWait>().cloned();
        Self { client, limit, waited: Duration::ZERO, received: 0 }
    }

    #[cfg(test)]
    pub(super) fn unbounded() -> Self {
        Self { client: None, limit: Duration::MAX, waited: Duration::ZERO, received: 0 }
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// # Errors
    /// 408 when it took too long.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, ApiError> {
        let began = Instant::now();
        let next = async {
            match &self.client {
                Some(client) => client.during(next).await,
                None => next.await,
            }
        };
        let done = timeout(self.left(), next).await;
        self.waited += began.elapsed();
        done.map_err(|_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body came too slowly.")
        })
    }

    /// How long the next frame is waited for: longer the more has come.
    fn left(&self) -> Duration {
        let earned = GRACE + Duration::from_secs_f64(self.received as f64 / MIN_RATE);
        earned.min(self.limit).saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_is_waited_for_and_who_dawdles_is_not() {
        let seconds = Duration::from_secs;
        let left = |received: u64, waited: u64| {
            let (client, limit) = (None, seconds(30));
            Pace { client, limit, waited: seconds(waited), received }.left()
        };
        assert_eq!(left(0, 0), seconds(5));
        assert_eq!(left(1, 6), Duration::ZERO, "one byte is no progress");
        assert_eq!(left(320 * 1024, 6), seconds(9), "ten seconds' worth of bytes have come");
        assert_eq!(left(u64::from(u32::MAX), 10), seconds(20), "but nobody has longer than this");
        assert_eq!(left(u64::from(u32::MAX), 31), Duration::ZERO);
    }
}
