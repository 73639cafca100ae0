//! A transaction on the primary.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Executor};
use tokio::time::timeout;

use super::{
    conn::Conn,
    error::{Error, breaks_connection},
    pool::Pool,
};
use crate::platform::{context, shutdown::Tasks};

/// `statement_timeout` of the application's role, set in `postgres/roles.sql`.
const ROLE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long COMMIT may take: a server that vanished without a word must not hold the connection.
const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// How long a roll-back may take before the connection is closed instead.
const ROLLBACK_WAIT: Duration = Duration::from_secs(1);

/// An open transaction. Dropped without [`Tx::commit`], be it by an early return or because the
/// client hung up, it is rolled back at once in the background: left to the next borrower of
/// the connection, it would hold its row locks until then.
pub struct Tx {
    conn: Option<Conn>,
    tasks: Tasks,
}

impl Tx {
    pub(super) async fn begin(pool: &Pool, tasks: Tasks) -> Result<Self, Error> {
        let mut conn = pool.get().await?;
        if let Err(error) = begin(&mut conn).await {
            if !breaks_connection(&error) {
                return Err(error.into());
            }
            // The first word on a connection that may have died in the pool. Nothing has
            // happened yet, so trying once more on a fresh one is safe.
            drop(conn);
            pool.forget_idle();
            tracing::debug!(%error, "BEGIN failed, trying once more on a new connection");
            conn = pool.get().await?;
            begin(&mut conn).await?;
        }
        Ok(Self { conn: Some(conn), tasks })
    }

    /// Makes everything permanent.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the connection broke after COMMIT was sent. Never retried here.
    pub async fn commit(mut self) -> Result<(), Error> {
        let Some(mut conn) = self.conn.take() else {
            return Ok(());
        };
        if conn.has_failed() {
            // Postgres would answer COMMIT with a silent ROLLBACK.
            self.conn = Some(conn);
            return Err(Error::Aborted);
        }
        // A COMMIT that is on its way must not be followed by anyone else's query, should this
        // future be cancelled: the connection is only kept once the answer is there.
        conn.discard();
        match timeout(COMMIT_WAIT, conn.execute("commit")).await {
            Ok(Ok(_)) => {
                conn.keep();
                Ok(())
            }
            // A lost server reaches us as an error message of PgBouncer's: no less unknown.
            Ok(Err(error)) if breaks_connection(&error) => Err(Error::OutcomeUnknown(error)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::OutcomeUnknown(sqlx::Error::PoolTimedOut)),
        }
    }
}

async fn begin(conn: &mut Conn) -> Result<(), sqlx::Error> {
    // Cancelled half-way, it would leave an open transaction to the next borrower: the
    // connection is only kept once the answer is there.
    conn.discard();
    let left = context::remaining(ROLE_STATEMENT_TIMEOUT);
    if left >= ROLE_STATEMENT_TIMEOUT {
        conn.execute("begin").await?;
    } else {
        // A deadline nearer than the role's default rides along.
        let millis = left.as_millis().max(1);
        let begin = format!("begin; set local statement_timeout = {millis}");
        conn.execute(AssertSqlSafe(begin)).await?;
    }
    conn.keep();
    Ok(())
}

impl Deref for Tx {
    type Target = Conn;

    #[expect(
        clippy::expect_used,
        reason = "`conn` is taken only by `commit` and `drop`, which own the transaction"
    )]
    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("the transaction is open")
    }
}

impl DerefMut for Tx {
    #[expect(
        clippy::expect_used,
        reason = "`conn` is taken only by `commit` and `drop`, which own the transaction"
    )]
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("the transaction is open")
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(mut conn) = self.conn.take() {
            self.tasks.spawn(async move {
                let rollback = timeout(ROLLBACK_WAIT, conn.execute("rollback"));
                if !matches!(rollback.await, Ok(Ok(_))) {
                    conn.discard();
                }
            });
        }
    }
}
