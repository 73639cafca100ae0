//! Schedules: jobs that are due at every tick, once in the whole fleet and without a leader.
//!
//! A tick is a row. Every worker tries to insert the newest one; the one that succeeds writes the
//! job in the same transaction. The time is that of Postgres, whatever the clocks of workers say.

mod queries;

use std::time::Duration;

use super::{NewJob, enqueue_all};
use crate::platform::db::{self, Db};

/// Work that is due again and again.
pub struct Schedule {
    pub name: &'static str,
    /// The time between two ticks, which are multiples of it since 1970.
    pub every: Duration,
    pub(super) job: Box<dyn Fn() -> Result<NewJob, sqlx::Error> + Send + Sync>,
}

/// A tick that was begun here.
pub(super) struct Begun {
    pub(super) schedule: String,
    /// Ticks between it and the one before that nobody has begun: all workers were away.
    pub(super) missed: i64,
}

/// Begins the ticks that are due: those that nobody else has begun.
///
/// # Errors
/// The database is away: the next poll tries again.
pub(super) async fn begin_due(db: &Db, schedules: &[Schedule]) -> Result<Vec<Begun>, db::Error> {
    if schedules.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = schedules.iter().map(|schedule| schedule.name).collect();
    let periods: Vec<f64> = schedules.iter().map(|schedule| schedule.every.as_secs_f64()).collect();
    // Nearly always there is nothing to do, which takes no transaction to find out.
    if !queries::is_any_due(&mut db.primary().await?, &names, &periods).await? {
        return Ok(Vec::new());
    }
    let mut tx = db.begin().await?;
    let begun = queries::insert_ticks(&mut tx, &names, &periods).await?;
    let jobs: Vec<NewJob> = schedules
        .iter()
        .filter(|schedule| begun.iter().any(|begun| begun.schedule == schedule.name))
        .map(|schedule| (schedule.job)())
        .collect::<Result<_, _>>()?;
    enqueue_all(&mut tx, &jobs).await?;
    tx.commit().await?;
    Ok(begun)
}
