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
        // Each by itself: what one of them runs into must not keep jobs from their workers.
        complain(begin_ticks(shared).await, "cannot begin ticks");
        complain(take_back(shared).await, "cannot take jobs back from workers that are gone");
        complain(make_due(shared).await, "cannot make scheduled jobs due");
        if measured.is_none_or(|at: Instant| at.elapsed() >= MEASURE_INTERVAL) {
            measured = Some(Instant::now());
            complain(count_jobs(shared).await, "cannot count jobs");
            complain(count_events(shared).await, "cannot count events");
            complain(count_default_rows(shared).await, "cannot count rows of default partitions");
        }
    }
}

fn complain(result: Result<(), db::Error>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}

async fn begin_ticks<S: Clone + Send + Sync + 'static>(
    shared: &Shared<S>,
) -> Result<(), db::Error> {
    let (db, registry, _, measures) = shared.parts();
    for begun in schedules::begin_due(db, registry.schedules()).await? {
        if begun.missed > 0 {
            tracing::warn!(schedule = begun.schedule, missed = begun.missed, "missed ticks");
            let missed = measures.missed_ticks.with_label_values(&[&*begun.schedule]);
            missed.inc_by(begun.missed.unsigned_abs());
        }
    }
    Ok(())
}

async fn take_back<S: Clone + Send + Sync + 'static>(shared: &Shared<S>) -> Result<(), db::Error> {
    let (db, ..) = shared.parts();
    if queries::rescue(&mut db.primary().await?, BATCH).await? > 0 {
        db.bell().ring();
    }
    Ok(())
}

/// All of them: what failed together may come back together, whatever the jitter.
async fn make_due<S: Clone + Send + Sync + 'static>(shared: &Shared<S>) -> Result<(), db::Error> {
    let (db, ..) = shared.parts();
    let mut conn = db.primary().await?;
    loop {
        let promoted = queries::promote(&mut conn, BATCH).await?;
        if promoted > 0 {
            db.bell().ring();
        }
        if promoted < BATCH as u64 {
            return Ok(());
        }
    }
}

/// One worker is enough to ask, but none knows of the others: the answers are the same.
async fn count_jobs<S: Clone + Send + Sync + 'static>(shared: &Shared<S>) -> Result<(), db::Error> {
    let (db, registry, _, measures) = shared.parts();
    let depths = queries::depths(&mut db.primary().await?).await?;
    measures.set_depths(registry.queues().map(|queue| queue.name), &depths);
    Ok(())
}

async fn count_events<S: Clone + Send + Sync + 'static>(
    shared: &Shared<S>,
) -> Result<(), db::Error> {
    let (db, _, _, measures) = shared.parts();
    let mut conn = db.primary().await?;
    let (pending, age) = relay::pending(&mut conn).await?;
    measures.outbox_pending.set(pending);
    measures.outbox_age.set(age);
    measures.unstreamed.set(relay::unstreamed(&mut conn).await?);
    Ok(())
}

async fn count_default_rows<S: Clone + Send + Sync + 'static>(
    shared: &Shared<S>,
) -> Result<(), db::Error> {
    let (db, _, _, measures) = shared.parts();
    for (table, rows) in upkeep::default_rows(&mut db.primary().await?).await? {
        measures.default_rows.with_label_values(&[&table]).set(rows);
    }
    Ok(())
}
