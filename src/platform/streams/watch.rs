//! Ends the streams of sessions that were ended.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Inner;
use crate::platform::{db, sessions::Sessions};

/// How often the sessions of all streams are looked at, how long one question may take, and the
/// pause before it is asked again: a single slow answer must not end every stream.
const INTERVAL: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_millis(900);
const PAUSE: Duration = Duration::from_millis(100);

/// Nobody with a revoked session may be answered for longer than 5 s: without an answer for this
/// long it is assumed that all are.
const BLIND_LIMIT: Duration = Duration::from_secs(4);

/// Sessions that are asked for by one statement.
const BATCH: usize = 2_000;

/// Runs until it is dropped.
pub(super) async fn sessions(streams: &Inner, sessions: &Sessions) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen_at = Instant::now();
    loop {
        ticks.tick().await;
        let mut all: Vec<_> = {
            let table = streams.table();
            table.by_user.values().flatten().map(|entry| entry.session_id).collect()
        };
        all.sort_unstable();
        all.dedup();
        match look(seen_at + BLIND_LIMIT, || dead_among(sessions, &all)).await {
            Some((asked_at, dead)) => {
                seen_at = asked_at;
                if !dead.is_empty() {
                    streams
                        .end("unauthorized", |entry| dead.binary_search(&entry.session_id).is_ok());
                }
            }
            None => streams.end("unauthorized", |_| true),
        }
    }
}

/// Asks until there is an answer, and once at least: when that was asked for, and the answer. `None`
/// if there was none by `end`.
async fn look<T, F: Future<Output = Result<T, db::Error>>>(
    end: Instant,
    mut ask: impl FnMut() -> F,
) -> Option<(Instant, T)> {
    loop {
        let asked_at = Instant::now();
        match timeout(ANSWER_LIMIT, ask()).await {
            Ok(Ok(answer)) => return Some((asked_at, answer)),
            Ok(Err(error)) => tracing::warn!(%error, "cannot ask for the sessions of streams"),
            Err(_) => tracing::warn!("no answer in time about the sessions of streams"),
        }
        if Instant::now() + PAUSE + ANSWER_LIMIT > end {
            return None;
        }
        sleep(PAUSE).await;
    }
}

/// In the order of their ids, as `all` are.
async fn dead_among(sessions: &Sessions, all: &[uuid::Uuid]) -> Result<Vec<uuid::Uuid>, db::Error> {
    let mut dead = Vec::new();
    for some in all.chunks(BATCH) {
        let mut live = sessions.live_among(some).await?;
        live.sort_unstable();
        dead.extend(some.iter().filter(|id| live.binary_search(id).is_err()));
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first look of a tick has, when the one of the tick before was answered at once.
    fn rest_of_patience() -> Instant {
        Instant::now() + BLIND_LIMIT - INTERVAL
    }

    #[tokio::test]
    async fn one_slow_answer_is_none_to_end_all_streams_for() {
        let mut asked = 0;
        let answer = look(rest_of_patience(), || {
            asked += 1;
            let asked = asked;
            async move {
                if asked == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(asked)
            }
        });
        let (asked_at, answer) = answer.await.unwrap();
        assert!(asked_at <= Instant::now());
        assert_eq!(answer, 2);
    }

    #[tokio::test]
    async fn who_is_blind_for_too_long_gives_up() {
        let mut asked = 0;
        let refuse = || {
            asked += 1;
            async { Err::<(), _>(db::Error::Busy("primary")) }
        };
        assert!(look(rest_of_patience(), refuse).await.is_none());
        assert!(asked > 1);
        let over = look(Instant::now(), || async { Err::<(), _>(db::Error::Busy("primary")) });
        assert!(over.await.is_none());
    }
}
