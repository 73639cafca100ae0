//! Errors for people: what went wrong, where, and the way out. No stack traces, no codes to look up.

use std::fmt;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One sentence that says what failed and where, and, when there is one, what to do about it.
pub struct Error {
    what: String,
    way_out: Option<String>,
    exit_code: u8,
}

impl Error {
    /// An error that ends the command with exit code 1.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), way_out: None, exit_code: 1 }
    }

    /// The user asked to stop: 130 is what a shell reports for Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new("interrupted").exit_code(130)
    }

    /// Says what to do about it.
    #[must_use]
    pub fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }

    /// Ends the command with this exit code instead of 1.
    #[must_use]
    pub fn exit_code(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }

    /// The exit code of a command that ends with this error.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.way_out {
            Some(way_out) => write!(f, "\n  → {way_out}"),
            None => Ok(()),
        }
    }
}

/// The same sentence: it is what a test that unwraps an error should print.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to an error of the operating system or of a library.
pub(crate) trait Context<T> {
    /// `what` completes the sentence "cannot …".
    fn cannot(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: ForeignError> Context<T> for Result<T, E> {
    fn cannot(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(format!("cannot {}: {error}", what())))
    }
}

/// Errors that say nothing about where they happened. [`Error`] is not one: it already does.
pub(crate) trait ForeignError: fmt::Display {}
impl ForeignError for std::io::Error {}
impl ForeignError for serde_json::Error {}
impl ForeignError for rustix::io::Errno {}
impl ForeignError for redis::RedisError {}
impl ForeignError for sqlx::Error {}
