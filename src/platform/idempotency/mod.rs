//! Idempotency keys: a `POST` that is sent twice happens once.
//!
//! The answer is stored in the transaction that makes it true, so the two cannot disagree. A
//! transaction that rolls back leaves nothing behind, and a retry runs again. Two guards:
//!
//! - A transaction-scoped advisory lock tells a second request at once that the first one is
//!   still running, instead of letting it wait on a pooled connection.
//! - The primary key of `idempotency_keys` decides, whatever happens to the lock.
//!
//! Neither costs a round trip: the lock is taken with BEGIN, and the answer is written with COMMIT.

mod queries;

use bytes::Bytes;
use http::StatusCode;
use prometheus::IntCounter;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    db::{self, Db, OnConstraint, Tx},
    metrics::Metrics,
};

/// One key as one user sent it to one route, and what came with it.
#[derive(Debug, Clone)]
pub struct Claim {
    scope: [u8; 32],
    body_hash: [u8; 32],
}

impl Claim {
    /// `route` is the matched template with its parameters filled in: the path.
    pub fn new(user_id: Uuid, method: &str, path: &str, key: &str, body: &[u8]) -> Self {
        let mut scope = Sha256::new();
        scope.update(user_id);
        for part in [method, path, key] {
            scope.update((part.len() as u64).to_be_bytes());
            scope.update(part);
        }
        Self { scope: scope.finalize().into(), body_hash: Sha256::digest(body).into() }
    }

    /// The advisory lock's number. Two scopes that share it get a needless 409, nothing worse.
    fn lock(&self) -> i64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.scope[..8]);
        i64::from_be_bytes(bytes)
    }
}

/// An answer that can be stored and given again, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub location: Option<String>,
    pub etag: Option<String>,
    /// JSON.
    pub body: Bytes,
    /// Whether this was stored by an earlier request.
    pub replayed: bool,
}

impl Reply {
    /// # Errors
    /// `body` cannot be serialised: a bug.
    pub fn new(status: StatusCode, body: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            status,
            location: None,
            etag: None,
            body: serde_json::to_vec(body)?.into(),
            replayed: false,
        })
    }

    pub fn location(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    pub fn etag(mut self, etag: String) -> Self {
        self.etag = Some(etag);
        self
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the first request with this Idempotency-Key is still running")]
    InFlight,
    #[error("this Idempotency-Key came with another body before")]
    Mismatch,
    #[error(transparent)]
    Database(#[from] db::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Runs transactions once per key. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency {
    db: Db,
    executed: IntCounter,
    replayed: IntCounter,
    in_flight: IntCounter,
    mismatched: IntCounter,
}

/// A transaction that belongs to a claim, or to none; see [`Idempotency::begin`].
pub struct Once<'a> {
    service: &'a Idempotency,
    claim: Option<&'a Claim>,
    pub tx: Tx,
}

/// What a claim led to.
pub enum Begun<'a> {
    /// Do the work in `once.tx`, then call `once.finish(reply)`.
    Run(Once<'a>),
    /// It was done before: this was the answer.
    Replay(Reply),
}

impl Idempotency {
    /// # Errors
    /// The metric is registered twice.
    pub fn new(db: Db, metrics: &Metrics) -> prometheus::Result<Self> {
        let outcomes = metrics.counter_vec(
            "idempotency_requests_total",
            "Requests with an Idempotency-Key by what became of them.",
            &["outcome"],
        )?;
        Ok(Self {
            db,
            executed: outcomes.with_label_values(&["executed"]),
            replayed: outcomes.with_label_values(&["replayed"]),
            in_flight: outcomes.with_label_values(&["in_flight"]),
            mismatched: outcomes.with_label_values(&["mismatched"]),
        })
    }

    /// Opens a transaction for `claim`, or finds the answer that was given to it.
    ///
    /// # Errors
    /// `InFlight`, `Mismatch`, or the database cannot be reached.
    pub async fn begin<'a>(&'a self, claim: Option<&'a Claim>) -> Result<Begun<'a>, Error> {
        let Some(claim) = claim else {
            return Ok(Begun::Run(Once { service: self, claim: None, tx: self.db.begin().await? }));
        };
        let (tx, found) = queries::begin(&self.db, claim.lock(), &claim.scope).await?;
        match found {
            queries::Found::Finished { body_hash, .. } if body_hash != claim.body_hash => {
                self.mismatched.inc();
                Err(Error::Mismatch)
            }
            queries::Found::Finished { reply, .. } => {
                // Nothing was written, but its position lies behind what the first request wrote,
                // whose own answer, and position, may have been lost.
                tx.commit().await?;
                self.replayed.inc();
                Ok(Begun::Replay(reply))
            }
            queries::Found::Locked => {
                self.in_flight.inc();
                Err(Error::InFlight)
            }
            queries::Found::Nothing => {
                Ok(Begun::Run(Once { service: self, claim: Some(claim), tx }))
            }
        }
    }
}

impl Once<'_> {
    /// Stores the answer and commits it together with the work.
    ///
    /// # Errors
    /// `InFlight` if another request with the key committed first: nothing of this one remains.
    pub async fn finish(mut self, reply: Reply) -> Result<Reply, Error> {
        let Some(claim) = self.claim else {
            self.tx.commit().await?;
            return Ok(reply);
        };
        self.tx.call_with_commit(queries::keeping(claim, &reply));
        self.tx.commit().await.on_constraint(queries::KEY, || Error::InFlight)?;
        self.service.executed.inc();
        Ok(reply)
    }
}
