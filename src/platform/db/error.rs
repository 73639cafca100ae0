//! What can go wrong with the database, sorted by what the caller can do about it.

use sqlx::postgres::PgDatabaseError;

/// An error of the database layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every connection of the pool stayed in use for the whole acquire time-out.
    #[error("all connections of the {0} pool are in use")]
    Busy(&'static str),
    /// No connection could be opened, or the one in use broke.
    #[error("the {0} database cannot be reached: {1}")]
    Unreachable(&'static str, String),
    /// The connection broke after COMMIT was sent: the transaction may or may not have happened.
    #[error("the outcome of the transaction is unknown: {0}")]
    OutcomeUnknown(sqlx::Error),
    /// The server refused or cancelled the statement for a reason that passes: time-out, lock
    /// time-out, deadlock, read-only, out of resources, shutting down.
    #[error("the database cannot do this now: {0}")]
    Unavailable(sqlx::Error),
    /// A constraint said no; the name is in the migrations.
    #[error("constraint {constraint} was violated")]
    Constraint {
        constraint: String,
        #[source]
        source: sqlx::Error,
    },
    /// COMMIT after a failed statement: nothing was written.
    #[error("a statement of the transaction had failed before COMMIT")]
    Aborted,
    /// A mistake of ours.
    #[error(transparent)]
    Bug(sqlx::Error),
}

impl Error {
    /// Whether the server could not be asked, so that another may know.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(..) | Self::Unavailable(_))
    }

    /// Whether others held for too long, or in a circle, what was to be locked: nothing was done,
    /// and it may well succeed in a moment.
    pub fn lost_a_lock(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        let code = error.as_database_error().and_then(|error| error.code());
        // 40P01 deadlock, 55P03 lock time-out.
        matches!(code.as_deref(), Some("40P01" | "55P03"))
    }

    pub(super) fn from_connect(pool: &'static str, error: sqlx::Error) -> Self {
        match Self::from(error) {
            Self::Bug(error) | Self::Unavailable(error) => {
                Self::Unreachable(pool, error.to_string())
            }
            error => error,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if let Some(database) = error.as_database_error() {
            if let Some(constraint) = database.constraint() {
                return Self::Constraint { constraint: constraint.to_owned(), source: error };
            }
            let code = database.code().unwrap_or_default();
            return if is_passing(&code) { Self::Unavailable(error) } else { Self::Bug(error) };
        }
        match error {
            sqlx::Error::Io(error) => Self::Unreachable("", error.to_string()),
            sqlx::Error::Tls(error) => Self::Unreachable("", error.to_string()),
            sqlx::Error::Protocol(error) => Self::Unreachable("", error),
            // Made by ourselves, see below.
            sqlx::Error::PoolTimedOut => Self::Busy("primary"),
            sqlx::Error::PoolClosed => Self::Unreachable("", error.to_string()),
            error => Self::Bug(error),
        }
    }
}

impl From<Error> for sqlx::Error {
    /// For an executor that had to look for another connection: it can only tell sqlx's errors.
    fn from(error: Error) -> Self {
        match error {
            Error::Busy(_) => Self::PoolTimedOut,
            Error::OutcomeUnknown(error)
            | Error::Unavailable(error)
            | Error::Bug(error)
            | Error::Constraint { source: error, .. } => error,
            error @ (Error::Unreachable(..) | Error::Aborted) => {
                Self::Io(std::io::Error::other(error))
            }
        }
    }
}

/// SQLSTATEs that say "not now" rather than "never".
fn is_passing(code: &str) -> bool {
    // 08 connection (PgBouncer's own errors are 08P01), 53 resources, 57 operator intervention
    // (57014 statement time-out, 57P0x shutdown), 58 system.
    const CLASSES: [&str; 4] = ["08", "53", "57", "58"];
    // 25006 read-only, 25P03 idle in transaction too long, 40001 serialization, 40P01 deadlock,
    // 55P03 lock time-out.
    const CODES: [&str; 5] = ["25006", "25P03", "40001", "40P01", "55P03"];
    CLASSES.iter().any(|class| code.starts_with(class)) || CODES.contains(&code)
}

/// Whether a connection is useless after `error`.
pub(super) fn breaks_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<PgDatabaseError>()
            // A read-only or stopping server stays so: its successor needs a new connection.
            .is_some_and(|error| {
                let code = error.code();
                code.starts_with("08")
                    || code.starts_with("57P")
                    || matches!(code, "25006" | "25P03")
            }),
        _ => false,
    }
}

/// Whether a read on a replica failed for a reason that is the replica's own.
pub(super) enum Blame {
    /// The server or its PgBouncer went away.
    Lost,
    /// It had to cancel the read to go on replaying.
    Conflict,
    /// The primary would say the same.
    Statement,
}

impl Blame {
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some("40001" | "40P01") => Self::Conflict,
            // A write is refused, and stays so.
            Some("25006" | "25P03") => Self::Statement,
            _ if breaks_connection(error) => Self::Lost,
            _ => Self::Statement,
        }
    }
}

/// Turns the violation of one named constraint into an error that its reader understands.
pub trait OnConstraint<T> {
    /// `map()` if `constraint` was violated; any other error stays what it is.
    ///
    /// # Errors
    /// The mapped or the original error.
    fn on_constraint<E: From<Error>>(
        self,
        constraint: &str,
        map: impl FnOnce() -> E,
    ) -> Result<T, E>;
}

impl<T> OnConstraint<T> for Result<T, Error> {
    fn on_constraint<E: From<Error>>(
        self,
        constraint: &str,
        map: impl FnOnce() -> E,
    ) -> Result<T, E> {
        self.map_err(|error| match error {
            Error::Constraint { constraint: name, .. } if name == constraint => map(),
            error => error.into(),
        })
    }
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint<E: From<Error>>(
        self,
        constraint: &str,
        map: impl FnOnce() -> E,
    ) -> Result<T, E> {
        self.map_err(Error::from).on_constraint(constraint, map)
    }
}
