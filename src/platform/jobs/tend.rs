//! What a worker does at every poll besides claiming: begins ticks, makes scheduled jobs due,
//! takes jobs back from workers that are gone, and measures.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::{queries, schedules, worker::Shared};
use crate::platform::{db, events::relay, upkeep};

/// Jobs that are moved by one statement, at most.
const BATCH: i64 = 1_000;

/// How often depths are counted: as often as Prometheus usually asks.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);

/// Runs until it is dropped.
pub(super) async fn run<S: Clone + Send + Sync + 'static>(shared: &Shared<S>) {
    let (.., config, _) = shared.parts();
    let mut polls = interval(config.poll);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut measured = None;
    loop {
        polls.tick().await;
        if let Err(error) = tend(shared).await {
            tracing::warn!(%error, "cannot tend to jobs");
            continue;
        }
        if measured.is_none_or(|at: Instant| at.elapsed() >= MEASURE_INTERVAL) {
            measured = Some(Instant::now());
            if let Err(error) = measure(shared).await {
                tracing::warn!(%error, "cannot count jobs");
            }
        }
    }
}

async fn tend<S: Clone + Send + Sync + 'static>(shared: &Shared<S>) -> Result<(), db::Error> {
    let (db, registry, _, measures) = shared.parts();
    for begun in schedules::begin_due(db, registry.schedules()).await? {
        if begun.missed > 0 {
            tracing::warn!(schedule = begun.schedule, missed = begun.missed, "missed ticks");
            let missed = measures.missed_ticks.with_label_values(&[&*begun.schedule]);
            missed.inc_by(begun.missed.unsigned_abs());
        }
    }
    let mut conn = db.primary().await?;
    let mut moved = queries::rescue(&mut conn, BATCH).await?;
    // All of them: what failed together may come back together, whatever the jitter.
    loop {
        let promoted = queries::promote(&mut conn, BATCH).await?;
        moved += promoted;
        if promoted < BATCH as u64 {
            break;
        }
    }
    if moved > 0 {
        db.bell().ring();
    }
    Ok(())
}

/// One worker is enough to ask, but none knows of the others: the answers are the same.
async fn measure<S: Clone + Send + Sync + 'static>(shared: &Shared<S>) -> Result<(), db::Error> {
    let (db, registry, _, measures) = shared.parts();
    let mut conn = db.primary().await?;
    let depths = queries::depths(&mut conn).await?;
    measures.set_depths(registry.queues().map(|queue| queue.name), &depths);
    let (pending, age) = relay::pending(&mut conn).await?;
    measures.outbox_pending.set(pending);
    measures.outbox_age.set(age);
    measures.unstreamed.set(relay::unstreamed(&mut conn).await?);
    for (table, rows) in upkeep::default_rows(&mut conn).await? {
        measures.default_rows.with_label_values(&[&table]).set(rows);
    }
    Ok(())
}
