//! What is kept, and what a look-up says.

use bytes::Bytes;
use serde::Serialize;

use crate::platform::db::{self, Consistency, Lsn};

/// A serialised answer, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the head of the response needs: the entity tag of an item, the next cursor of a list.
    pub meta: String,
    pub body: Bytes,
}

impl Entry {
    /// # Errors
    /// `value` cannot be serialised: a bug.
    pub fn new(meta: String, value: &impl Serialize) -> Result<Self, db::Error> {
        let body = serde_json::to_vec(value).map_err(|error| sqlx::Error::Encode(error.into()))?;
        Ok(Self { meta, body: body.into() })
    }
}

/// How an answer was come by: the `Cache-Status` of RFC 9211.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// From this process.
    Near,
    /// From Redis.
    Hit,
    /// From Redis, past its freshness; somebody refreshes it, or the database is away.
    Stale,
    Miss,
    /// No cache was asked, or none could be.
    Bypass,
}

impl Status {
    pub fn header(self) -> http::HeaderValue {
        http::HeaderValue::from_static(match self {
            Self::Near => "shoal; hit; detail=near",
            Self::Hit => "shoal; hit",
            Self::Stale => "shoal; hit; detail=stale",
            Self::Miss => "shoal; fwd=miss",
            Self::Bypass => "shoal; fwd=bypass",
        })
    }
}

/// An answer, or the knowledge that there is nothing (`None`).
#[derive(Debug, Clone)]
pub struct Found {
    pub entry: Option<Entry>,
    pub status: Status,
    /// What is known to be in it: every commit up to here.
    pub(super) valid_at: Lsn,
}

impl Found {
    pub(super) fn serves(&self, consistency: Consistency) -> bool {
        contains(self.valid_at, consistency)
    }
}

/// Whether what contains every commit up to `valid_at` is enough.
pub(super) fn contains(valid_at: Lsn, consistency: Consistency) -> bool {
    match consistency {
        Consistency::Any => true,
        Consistency::AtLeast(lsn) => valid_at >= lsn,
        Consistency::Latest | Consistency::LatestElse(_) | Consistency::Uncached => false,
    }
}

/// Why there is no answer. Cheap to clone, since many may have waited for the same load.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Load(std::sync::Arc<db::Error>),
    #[error("too many misses at once")]
    Overloaded,
}

impl Error {
    /// Whether another database may do what this one could not.
    pub(super) fn is_unreachable(&self) -> bool {
        use db::Error::{Busy, Unavailable, Unreachable};
        matches!(self, Self::Load(error)
            if matches!(**error, Busy(_) | Unavailable(_) | Unreachable(..)))
    }
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        Self::Load(std::sync::Arc::new(error))
    }
}
