//! Ends the streams of sessions that were ended.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Inner;
use crate::platform::sessions::Sessions;

/// How often the sessions of all streams are looked at, and how long one question may take.
const INTERVAL: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);

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
        let asked_at = Instant::now();
        let mut all: Vec<_> = {
            let table = streams.table();
            table.by_user.values().flatten().map(|entry| entry.session_id).collect()
        };
        all.sort_unstable();
        all.dedup();
        match timeout(ANSWER_LIMIT, dead_among(sessions, &all)).await {
            Ok(Ok(dead)) => {
                seen_at = asked_at;
                if !dead.is_empty() {
                    streams
                        .end("unauthorized", |entry| dead.binary_search(&entry.session_id).is_ok());
                }
            }
            unanswered => {
                if let Ok(Err(error)) = unanswered {
                    tracing::warn!(%error, "cannot ask for the sessions of streams");
                }
                if seen_at.elapsed() + INTERVAL > BLIND_LIMIT {
                    streams.end("unauthorized", |_| true);
                }
            }
        }
    }
}

/// In the order of their ids, as `all` are.
async fn dead_among(
    sessions: &Sessions,
    all: &[uuid::Uuid],
) -> Result<Vec<uuid::Uuid>, crate::platform::db::Error> {
    let mut dead = Vec::new();
    for some in all.chunks(BATCH) {
        let mut live = sessions.live_among(some).await?;
        live.sort_unstable();
        dead.extend(some.iter().filter(|id| live.binary_search(id).is_err()));
    }
    Ok(dead)
}
