//! A connection on loan, which notices what would make it unfit for the next borrower.

use std::{fmt, sync::Arc, time::Duration};

use deadpool::managed::Object;
use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{PgArguments, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    answers::{Answers, Item, silent},
    error::{Blame, breaks_connection},
    pool::Connector,
    replica::Loan,
    target::Target,
};
use crate::platform::context;

/// One connection to Postgres, given back to its pool on drop.
///
/// It is an sqlx executor of its own rather than a mere guard, since the pool never pings
/// (see [`super::pool`]): only what passes through here can tell that the connection broke.
///
/// Borrowed from a replica, it moves on to the primary when the replica gets lost, and repeats
/// the statement that failed. So that nothing is told twice, the rows of such a statement are
/// gathered before the first is handed on.
pub struct Conn {
    object: Option<Object<Connector>>,
    health: Health,
    target: Arc<Target>,
    /// Set while the connection is a replica's.
    loan: Option<Loan>,
    /// The way through the bulkhead before the primary, held as long as the connection.
    permit: Option<OwnedSemaphorePermit>,
    /// How long the server may be silent, for those whom no deadline of their own ends.
    silence: Option<Duration>,
}

/// What the loan has shown of the connection.
#[derive(Default)]
pub(super) struct Health {
    /// A statement was sent, and there is more of its answer to come.
    pub(super) is_asked: bool,
    /// The socket or the protocol failed, so the next query would fail as well.
    broken: bool,
    /// A statement failed: a transaction it belonged to can only be rolled back.
    failed: bool,
}

/// A statement that can be sent again.
type Statement = (SqlStr, Option<PgArguments>);

impl Conn {
    pub(super) fn new(object: Object<Connector>, target: Arc<Target>) -> Self {
        let health = Health::default();
        Self { object: Some(object), health, target, loan: None, permit: None, silence: None }
    }

    /// As one of a replica's.
    pub(super) fn on_loan(mut self, loan: Loan) -> Self {
        self.loan = Some(loan);
        self
    }

    /// As one that was let through the bulkhead.
    pub(super) fn through(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// As one that fails once the server has been silent for so long; `None` for ever.
    pub(super) fn within(mut self, silence: Option<Duration>) -> Self {
        self.silence = silence;
        self
    }

    /// Keeps the connection from being used again: it is closed on drop.
    pub(super) fn discard(&mut self) {
        self.health.broken = true;
    }

    /// Takes `discard` back.
    pub(super) fn keep(&mut self) {
        self.health.broken = false;
    }

    pub(super) fn has_failed(&self) -> bool {
        self.health.failed
    }

    fn parts(&mut self) -> Result<(&mut PgConnection, &mut Health, &Target), Error> {
        let connection = self.object.as_deref_mut().ok_or(Error::PoolClosed)?;
        Ok((connection, &mut self.health, &self.target))
    }

    /// Ends the loan; whatever is asked from now on fails.
    fn give_back(&mut self) {
        // The answer is no longer wanted, and the server is to know: PgBouncer lets go of its
        // connection, and Postgres, which looks every second, ends the statement.
        let is_too_late = self.health.is_asked && context::is_over();
        if let Some(object) = self.object.take()
            && (self.health.broken || is_too_late)
        {
            // Taken out of the pool, which may then open another; the socket closes on drop.
            drop(Object::take(object));
        }
    }

    /// The rows of a statement as they come.
    fn stream(&mut self, statement: Statement) -> BoxStream<'_, Result<Item, Error>> {
        let silence = self.silence;
        match self.parts() {
            Ok((connection, health, target)) => {
                let timer = target.time(statement.0.as_str());
                let items = connection.fetch_many(statement);
                Answers::new(items, (health, target), timer, silence).boxed()
            }
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    /// All rows of a statement, from the replica or else from the primary.
    async fn gather(&mut self, statement: Statement) -> Result<Vec<Item>, Error> {
        let Some(loan) = self.loan.take() else {
            return self.stream(statement).try_collect().await;
        };
        let again = statement.clone();
        let answer = tokio::select! {
            biased;
            answer = self.stream(statement).try_collect() => answer,
            () = loan.lost() => {
                // Whatever comes after all is nobody's.
                self.discard();
                Err(Error::Io(std::io::ErrorKind::TimedOut.into()))
            }
        };
        let Err(error) = answer else {
            self.loan = Some(loan);
            return answer;
        };
        match Blame::of(&error) {
            Blame::Statement => {
                self.loan = Some(loan);
                return Err(error);
            }
            Blame::Lost => loan.report(&error),
            Blame::Conflict => {}
        }
        tracing::debug!(%error, "a read moves from a replica to the primary");
        // The replica's connection goes back, or is closed, before the other is waited for.
        self.give_back();
        *self = loan.at_primary().await?;
        self.stream(again).try_collect().await
    }
}

impl Health {
    pub(super) fn note(&mut self, error: Option<&Error>, target: &Target) {
        match error {
            None => target.breaker.record_success(),
            Some(error) => {
                self.is_asked = false;
                self.failed = true;
                self.broken |= breaks_connection(error);
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Conn")
    }
}

/// Takes a query apart. Every statement is kept prepared, whatever the query says.
fn statement<'q>(mut query: impl Execute<'q, Postgres>) -> Result<Statement, Error> {
    let arguments = query.take_arguments().map_err(Error::Encode)?;
    Ok((query.sql(), arguments))
}

impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Item, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match statement(query) {
            Err(error) => stream::once(async { Err(error) }).boxed(),
            Ok(statement) if self.loan.is_none() => self.stream(statement),
            Ok(statement) => stream::once(self.gather(statement))
                .map_ok(|items| stream::iter(items.into_iter().map(Ok)))
                .try_flatten()
                .boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = statement(query);
        Box::pin(async move {
            let statement = statement?;
            if self.loan.is_some() {
                let items = self.gather(statement).await?;
                return Ok(items.into_iter().find_map(Either::right));
            }
            let silence = self.silence;
            let (connection, health, target) = self.parts()?;
            let timer = target.time(statement.0.as_str());
            health.is_asked = true;
            let asked = connection.fetch_optional(statement);
            let row = match silence {
                None => asked.await,
                Some(limit) => timeout(limit, asked).await.unwrap_or_else(|_| Err(silent())),
            };
            health.is_asked = false;
            drop(timer);
            health.note(row.as_ref().err(), target);
            row
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.parts()?.0.describe(sql).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let (connection, health, target) = self.parts()?;
            let statement = connection.prepare_with(sql, parameters).await;
            health.note(statement.as_ref().err(), target);
            statement
        })
    }
}
