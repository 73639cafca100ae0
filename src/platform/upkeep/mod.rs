//! Keeps the platform's tables in order: purges what is over, makes the partitions of months to
//! come, refreshes statistics. Schedules call it; everything here may be repeated, and done by two at
//! once.

mod queries;

use std::time::Duration;

pub(in crate::platform) use self::queries::default_rows;
use super::{
    context,
    db::{self, Conn, Db},
    locks::Locks,
};

#[derive(Clone)]
pub struct Config {
    /// How long finished jobs are kept.
    pub job_retention: Duration,
    /// Whole months before the current one that stay attached; all of them without it.
    pub months_kept: Option<i32>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Upkeep {
    db: Db,
    locks: Locks,
    config: Config,
}

/// Rows that went away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub idempotency_keys: u64,
    pub jobs: u64,
    pub schedule_ticks: u64,
    pub sessions: u64,
    pub refresh_tokens: u64,
}

/// Rows that one statement removes: few enough for milliseconds.
const BATCH: i64 = 1_000;

/// Months that are there before they begin.
const MONTHS_AHEAD: i32 = 3;

/// Longer than any batch takes: renewed with each.
const PURGE_LOCK: Duration = Duration::from_secs(30);

impl Upkeep {
    pub fn new(db: Db, locks: Locks, config: Config) -> Self {
        Self { db, locks, config }
    }

    /// Removes what is over; `None` if another process is at it. Two of them would do no harm, but
    /// pass over each other's rows for nothing, hence the lock.
    ///
    /// # Errors
    /// The database refused. What was removed before stays so.
    pub async fn purge(&self) -> Result<Option<Purged>, db::Error> {
        let lock = match self.locks.acquire("purge", PURGE_LOCK).await {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Ok(None),
            // Without Redis it is still to be done.
            Err(_) => None,
        };
        let retention = self.config.job_retention;
        let mut purged = Purged::default();
        loop {
            let mut conn = self.db.primary().await?;
            let batch = Purged {
                idempotency_keys: queries::idempotency_keys(&mut conn, BATCH).await?,
                jobs: queries::finished_jobs(&mut conn, retention, BATCH).await?,
                schedule_ticks: queries::schedule_ticks(&mut conn, BATCH).await?,
                sessions: queries::sessions(&mut conn, BATCH).await?,
                refresh_tokens: queries::refresh_tokens(&mut conn, BATCH).await?,
            };
            // Others may want it between two batches.
            drop(conn);
            let is_full = batch.is_full();
            purged.add(&batch);
            if !is_full {
                break;
            }
            if let Some(lock) = &lock
                && matches!(lock.renew(PURGE_LOCK).await, Ok(false))
            {
                // Somebody else goes on with it.
                return Ok(Some(purged));
            }
        }
        if let Some(lock) = lock {
            let _ = lock.release().await;
        }
        Ok(Some(purged))
    }

    /// Makes the partitions of months to come, and detaches those that are not to be kept, if that
    /// is configured.
    ///
    /// # Errors
    /// The database refused: most likely a lock was not to be had, or rows of that month are in
    /// the default partition.
    pub async fn renew_partitions(&self) -> Result<(), db::Error> {
        let mut conn = self.db.primary().await?;
        for table in self.tables(&mut conn).await? {
            queries::create_months(&mut conn, &table, MONTHS_AHEAD).await?;
            if let Some(kept) = self.config.months_kept {
                for partition in queries::detach_months(&mut conn, &table, kept).await? {
                    tracing::info!(partition, "detached: archive it, then drop it");
                }
            }
        }
        Ok(())
    }

    /// Refreshes the planner's statistics of partitioned tables, which autovacuum does not.
    ///
    /// # Errors
    /// The database refused.
    pub async fn refresh_statistics(&self) -> Result<(), db::Error> {
        let tables = self.tables(&mut self.db.primary().await?).await?;
        for table in tables {
            // One transaction each: it keeps its lock until its end.
            let mut tx = self.db.begin().await?;
            queries::analyze(&mut tx, &table, context::remaining(ANALYZE_LIMIT)).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    async fn tables(&self, conn: &mut Conn) -> Result<Vec<String>, db::Error> {
        Ok(queries::partitioned_tables(conn).await?)
    }
}

/// A sample of 30,000 rows, wherever they lie on the disk.
const ANALYZE_LIMIT: Duration = Duration::from_secs(60);

impl Purged {
    fn is_full(&self) -> bool {
        let Self { idempotency_keys, jobs, schedule_ticks, sessions, refresh_tokens } = self;
        [idempotency_keys, jobs, schedule_ticks, sessions, refresh_tokens]
            .into_iter()
            .any(|count| *count >= BATCH as u64)
    }

    fn add(&mut self, other: &Self) {
        self.idempotency_keys += other.idempotency_keys;
        self.jobs += other.jobs;
        self.schedule_ticks += other.schedule_ticks;
        self.sessions += other.sessions;
        self.refresh_tokens += other.refresh_tokens;
    }
}
