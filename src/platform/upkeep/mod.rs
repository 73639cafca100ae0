//! Keeps the platform's tables in order: purges what is over, makes the partitions of months to
//! come, refreshes statistics. Schedules call it; everything here may be repeated, and done by two at
//! once.

mod queries;

use std::time::Duration;

pub(in crate::platform) use self::queries::default_rows;
use super::{
    context,
    db::{self, Conn, Db},
    locks::{Lock, Locks},
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

/// What is purged, in this order.
#[derive(Debug, Clone, Copy)]
enum Table {
    IdempotencyKeys,
    Jobs,
    ScheduleTicks,
    RefreshTokens,
    /// Before the sessions, which go once they have none.
    TokensOfEnded,
    Sessions,
}

impl Table {
    const ALL: [Self; 6] = [
        Self::IdempotencyKeys,
        Self::Jobs,
        Self::ScheduleTicks,
        Self::RefreshTokens,
        Self::TokensOfEnded,
        Self::Sessions,
    ];
}

/// How far one table was purged.
enum Clean {
    All,
    LostLock,
}

/// Rows that one statement removes: few enough for milliseconds.
const BATCH: i64 = 1_000;

/// Months that are there before they begin.
pub(in crate::platform) const MONTHS_AHEAD: i32 = 3;

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
    /// The database refused for one of the tables, the first of them; the others are purged all the
    /// same, and what was removed stays so.
    pub async fn purge(&self) -> Result<Option<Purged>, db::Error> {
        let lock = match self.locks.acquire("purge", PURGE_LOCK).await {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Ok(None),
            // Without Redis it is still to be done.
            Err(_) => None,
        };
        let (mut purged, mut failed) = (Purged::default(), None);
        for table in Table::ALL {
            match self.clean(table, lock.as_ref(), purged.of(table)).await {
                Ok(Clean::All) => {}
                // Somebody else goes on with it.
                Ok(Clean::LostLock) => return Ok(Some(purged)),
                // What is wrong with one table must not let the others grow.
                Err(error) => {
                    tracing::warn!(?table, %error, "cannot purge");
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(lock) = lock {
            let _ = lock.release().await;
        }
        failed.map_or(Ok(Some(purged)), Err)
    }

    /// Removes what is over from one table, batch by batch, and counts the rows.
    async fn clean(
        &self,
        table: Table,
        lock: Option<&Lock>,
        purged: &mut u64,
    ) -> Result<Clean, db::Error> {
        loop {
            // Others may want it between two batches.
            let mut conn = self.db.primary().await?;
            let count = match table {
                Table::IdempotencyKeys => queries::idempotency_keys(&mut conn, BATCH).await?,
                Table::Jobs => {
                    queries::finished_jobs(&mut conn, self.config.job_retention, BATCH).await?
                }
                Table::ScheduleTicks => queries::schedule_ticks(&mut conn, BATCH).await?,
                Table::RefreshTokens => queries::refresh_tokens(&mut conn, BATCH).await?,
                Table::TokensOfEnded => queries::tokens_of_ended(&mut conn, BATCH).await?,
                Table::Sessions => queries::sessions(&mut conn, BATCH).await?,
            };
            drop(conn);
            *purged += count;
            if count < BATCH as u64 {
                return Ok(Clean::All);
            }
            if let Some(lock) = lock
                && matches!(lock.renew(PURGE_LOCK).await, Ok(false))
            {
                return Ok(Clean::LostLock);
            }
        }
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
    fn of(&mut self, table: Table) -> &mut u64 {
        match table {
            Table::IdempotencyKeys => &mut self.idempotency_keys,
            Table::Jobs => &mut self.jobs,
            Table::ScheduleTicks => &mut self.schedule_ticks,
            Table::RefreshTokens | Table::TokensOfEnded => &mut self.refresh_tokens,
            Table::Sessions => &mut self.sessions,
        }
    }
}
