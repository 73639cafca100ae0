//! A transaction on the primary.

use std::{
    borrow::Cow,
    ops::{Deref, DerefMut},
    time::Duration,
};

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, Executor, Row, postgres::PgRow};
use tokio::time::timeout;

use super::{
    Db,
    conn::Conn,
    error::{Error, breaks_connection},
    lsn::Lsn,
    pool::Pool,
};
use crate::platform::{
    bell::Bell,
    cache::{Burial, Eviction},
    context,
    events::{self, Emitted, feed::Local},
    shutdown::Tasks,
};

/// `statement_timeout` of the application's role, set in `postgres/roles.sql`.
pub(super) const ROLE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long COMMIT may take: a server that vanished without a word must not hold the connection.
const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// How long a roll-back may take before the connection is closed instead.
const ROLLBACK_WAIT: Duration = Duration::from_secs(1);

/// COMMIT, and up to where the log then has to be replayed for its effects to be seen: both in
/// one message. With `synchronous_commit`, what is committed is flushed.
const COMMIT: &str = "commit; select pg_current_wal_flush_lsn()";

/// An open transaction. Dropped without [`Tx::commit`], be it by an early return or because the
/// client hung up, it is rolled back at once in the background: left to the next borrower of
/// the connection, it would hold its row locks until then.
pub struct Tx {
    conn: Option<Conn>,
    /// Kept until the end, and told of after the commit.
    events: Vec<Emitted>,
    /// Functions that are called with COMMIT, in the same message.
    last_calls: Vec<String>,
    /// What the caches must not hold any longer.
    evictions: Vec<Eviction>,
    /// Whether there are new events or jobs.
    leaves_work: bool,
    shared: Shared,
}

/// What every transaction of the process is given.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) tasks: Tasks,
    /// Tells the process that there are new events or jobs.
    pub(super) bell: Bell,
    /// Tells the process of the events themselves.
    pub(super) local: Local,
}

impl Tx {
    async fn begin_with(
        pool: &Pool,
        shared: Shared,
        silence: Option<Duration>,
        question: &str,
    ) -> Result<(Self, Option<PgRow>), Error> {
        let mut conn = pool.get().await?.within(silence);
        let mut begun = begin(&mut conn, question).await;
        if let Err(error) = &begun
            && breaks_connection(error)
        {
            // The first word on a connection that may have died in the pool. Nothing has
            // happened yet, so trying once more on a fresh one is safe.
            drop(conn);
            pool.forget_idle();
            tracing::debug!(%error, "BEGIN failed, trying once more on a new connection");
            conn = pool.get().await?.within(silence);
            begun = begin(&mut conn, question).await;
        }
        // Even if the question failed: the transaction is open then, and has to be rolled back.
        let tx = Self {
            conn: Some(conn),
            events: Vec::new(),
            last_calls: Vec::new(),
            evictions: Vec::new(),
            leaves_work: false,
            shared,
        };
        Ok((tx, begun?))
    }

    /// Writes an event with COMMIT.
    pub(in crate::platform) fn emit(&mut self, event: Emitted) {
        self.leaves_work = true;
        self.events.push(event);
    }

    /// Calls a function of the database, which returns nothing, with COMMIT. What is put into
    /// the call has to be harmless by its form: see [`Bytea`](super::Bytea).
    pub(in crate::platform) fn call_with_commit(&mut self, call: String) {
        self.last_calls.push(call);
    }

    /// Tells those who wait for work of the commit, once there is one.
    pub(in crate::platform) fn leaves_work(&mut self) {
        self.leaves_work = true;
    }

    /// Takes an entry out of the caches, no matter how the commit ends.
    pub fn evict(&mut self, eviction: Eviction) {
        self.evictions.push(eviction);
    }

    /// Writes the events, then makes everything permanent. The position is that of the log after
    /// the commit; the context of the running request notes it.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the connection broke after COMMIT was sent. Never retried here.
    pub async fn commit(mut self) -> Result<Lsn, Error> {
        if !self.events.is_empty() {
            let call = events::writing(&self.events)?;
            self.last_calls.push(call);
        }
        if self.has_failed() {
            // Postgres would answer COMMIT with a silent ROLLBACK.
            return Err(Error::Aborted);
        }
        // First, since a process may be killed right after COMMIT. The connection stays in `self`
        // meanwhile, so that whoever gives up waiting rolls back.
        let burial = Burial::of(std::mem::take(&mut self.evictions)).await;
        let Some(mut conn) = self.conn.take() else {
            return Err(Error::Aborted);
        };
        // A COMMIT that is on its way must not be followed by anyone else's query, should this
        // future be cancelled: the connection is only kept once the answer is there.
        conn.discard();
        let mut is_committed = false;
        let ended = commit(&mut conn, &self.last_calls, &mut is_committed);
        match timeout(COMMIT_WAIT, ended).await {
            Ok(Ok(lsn)) => {
                conn.keep();
                context::note_commit(lsn);
                if self.leaves_work {
                    self.shared.bell.ring();
                }
                self.shared.local.tell(&self.events);
                burial.settle(lsn).await;
                Ok(lsn)
            }
            // A lost server reaches us as an error message of PgBouncer's: no less unknown. Nor
            // is a commit whose position got lost told as one: its writer might then read what
            // was before.
            Ok(Err(error)) if is_committed || breaks_connection(&error) => {
                Err(Error::OutcomeUnknown(error))
            }
            // One of the last calls failed: back, to be rolled back.
            Ok(Err(error)) => {
                conn.keep();
                self.conn = Some(conn);
                Err(error.into())
            }
            Err(_) => Err(Error::OutcomeUnknown(sqlx::Error::PoolTimedOut)),
        }
    }
}

impl Db {
    /// A transaction on the primary, and the answer to a question that rides along with BEGIN.
    /// `question` is one statement without parameters: what is put into it has to be harmless
    /// by its form, such as hexadecimal digits.
    ///
    /// # Errors
    /// 503 when no connection can be had in time; what the question runs into.
    pub(in crate::platform) async fn begin_with(
        &self,
        question: &str,
    ) -> Result<(Tx, Option<PgRow>), Error> {
        self.routes.touch();
        let (pool, shared) = (&self.routes.primary.pool, self.shared.clone());
        Tx::begin_with(pool, shared, self.silence, question).await
    }
}

async fn begin(conn: &mut Conn, question: &str) -> Result<Option<PgRow>, sqlx::Error> {
    let mut message = "begin".to_owned();
    let left = context::remaining(ROLE_STATEMENT_TIMEOUT);
    if left < ROLE_STATEMENT_TIMEOUT {
        // A deadline nearer than the role's default rides along.
        message += &format!("; set local statement_timeout = {}", left.as_millis().max(1));
    }
    if !question.is_empty() {
        message += "; ";
        message += question;
    }
    // Cancelled half-way, it would leave an open transaction to the next borrower: the
    // connection is only kept once the answer is there.
    conn.discard();
    let answer = conn.fetch_optional(AssertSqlSafe(message)).await;
    if answer.as_ref().err().is_none_or(|error| !breaks_connection(error)) {
        conn.keep();
    }
    answer
}

async fn commit(
    conn: &mut Conn,
    last_calls: &[String],
    is_committed: &mut bool,
) -> Result<Lsn, sqlx::Error> {
    let (message, mut before_commit) = match last_calls {
        [] => (Cow::Borrowed(COMMIT), 0),
        // Named for metrics and for whoever watches the server.
        calls => (Cow::Owned(format!("-- commit\nselect {}; {COMMIT}", calls.join(", "))), 1),
    };
    let mut answers = conn.fetch_many(AssertSqlSafe(message));
    let mut lsn = None;
    while let Some(answer) = answers.try_next().await? {
        match answer {
            Either::Left(_) if before_commit > 0 => before_commit -= 1,
            // What fails from here on fails after the commit.
            Either::Left(_) => *is_committed = true,
            Either::Right(_) if before_commit > 0 => {}
            Either::Right(row) => {
                let text = row.try_get_raw(0)?.as_str().map_err(sqlx::Error::Decode)?;
                lsn = Some(text.parse().map_err(|why: &str| sqlx::Error::Decode(why.into()))?);
            }
        }
    }
    lsn.ok_or(sqlx::Error::RowNotFound)
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
            self.shared.tasks.spawn(async move {
                let rollback = timeout(ROLLBACK_WAIT, conn.execute("rollback"));
                if !matches!(rollback.await, Ok(Ok(_))) {
                    conn.discard();
                }
            });
        }
    }
}
