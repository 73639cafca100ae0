//! A connection on loan, which notices what would make it unfit for the next borrower.

use std::fmt;

use deadpool::managed::Object;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use super::pool::Connector;

/// One connection to Postgres, given back to its pool on drop.
///
/// It is an sqlx executor of its own rather than a mere guard, since the pool never pings
/// (see [`super::pool`]): only what passes through here can tell that the connection broke.
pub struct Conn {
    object: Option<Object<Connector>>,
    health: Health,
}

/// What the loan has shown of the connection.
#[derive(Default)]
struct Health {
    /// The socket or the protocol failed, so the next query would fail as well.
    broken: bool,
    /// A statement failed: a transaction it belonged to can only be rolled back.
    failed: bool,
}

impl Conn {
    pub(super) fn new(object: Object<Connector>) -> Self {
        Self { object: Some(object), health: Health::default() }
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

    fn parts(&mut self) -> Result<(&mut PgConnection, &mut Health), Error> {
        let connection = self.object.as_deref_mut().ok_or(Error::PoolClosed)?;
        Ok((connection, &mut self.health))
    }
}

impl Health {
    fn note<T>(&mut self, result: &Result<T, Error>) {
        if let Err(error) = result {
            self.failed = true;
            self.broken |= super::error::breaks_connection(error);
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.health.broken
            && let Some(object) = self.object.take()
        {
            // Taken out of the pool, which may then open another; the socket closes on drop.
            drop(Object::take(object));
        }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Conn")
    }
}

impl<'c> Executor<'c> for &'c mut Conn {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.parts() {
            Ok((connection, health)) => {
                connection.fetch_many(query).inspect(|item| health.note(item)).boxed()
            }
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let (connection, health) = self.parts()?;
            let row = connection.fetch_optional(query).await;
            health.note(&row);
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
            let (connection, health) = self.parts()?;
            let statement = connection.prepare_with(sql, parameters).await;
            health.note(&statement);
            statement
        })
    }
}
