//! The right to work on a job, for as long as the worker is heard of.

use uuid::Uuid;

use super::{Failure, queries};
use crate::platform::db::Tx;

/// Given to a job while it runs.
#[derive(Debug, Clone)]
pub struct Lease {
    pub(super) job: Uuid,
    /// Grows with every claim of the job.
    pub(super) fence: i32,
    /// The number of this attempt, the first being 1.
    pub attempt: i16,
    /// Whether no other will follow if this one fails.
    pub is_last_attempt: bool,
}

impl Lease {
    /// The job's id: the same in every attempt, so a key for others to know a repetition by.
    pub fn job_id(&self) -> Uuid {
        self.job
    }

    /// Makes the transaction fail unless the job is still this worker's, and keeps others from
    /// taking it over until the transaction ends. With it, what the transaction does happens once
    /// for all attempts that do the same, also if this process was frozen past its lease.
    ///
    /// # Errors
    /// The job was taken over, or the database refused.
    pub async fn hold(&self, tx: &mut Tx) -> Result<(), Failure> {
        if queries::hold(tx, self.job, self.fence).await? {
            Ok(())
        } else {
            Err(Failure::retry("the job was taken over by another worker"))
        }
    }

    /// Like [`Lease::hold`], and completes the job with the transaction: no later attempt can
    /// repeat what it did.
    ///
    /// # Errors
    /// The job was taken over, or the database refused.
    pub async fn complete(&self, tx: &mut Tx) -> Result<(), Failure> {
        if queries::complete(tx, self.job, self.fence).await? {
            Ok(())
        } else {
            Err(Failure::retry("the job was taken over by another worker"))
        }
    }
}
