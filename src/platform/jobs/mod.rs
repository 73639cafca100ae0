//! Jobs: work that is asked for in a transaction and done later, by any worker, at least once.
//!
//! They live in Postgres, so that they commit with what asks for them and no loss of Redis loses
//! any. A claim is short: a job runs outside of the transaction that claimed it, under a lease
//! that its worker renews. A worker that was away for longer than the lease has lost the job, and
//! the fence keeps it from completing what another has taken over ([`Lease::hold`]).
//!
//! Reading order: this file, `registry.rs`, `worker.rs`, `lease.rs`, `keeper.rs`, `queries.rs`.

pub mod admin;
mod backoff;
mod batch;
mod keeper;
mod lease;
mod measures;
mod queries;
mod registry;
pub mod schedules;
mod tend;
pub mod wake;
mod worker;

use std::{future::Future, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

pub use self::{
    backoff::jittered,
    batch::{Ask, Batch},
    lease::Lease,
    registry::Registry,
    schedules::Schedule,
    worker::{Pulse, Worker},
};
use super::{
    context::Context,
    db::{self, Tx},
};

/// What an attempt may take, unless its kind says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a job may be set to wait for one answer of somebody else's, at most, in milliseconds: the
/// rest is for what is done about it.
pub const LONGEST_CALL_MS: u64 = 45_000;

const _: () = assert!(LONGEST_CALL_MS < TIMEOUT.as_secs() * 1_000);

#[derive(Clone)]
pub struct Config {
    /// How often to look for work that nobody told of.
    pub poll: Duration,
    /// How long a worker may be silent before its jobs are given to others.
    pub lease: Duration,
    /// How long finished jobs are kept.
    pub retention: Duration,
}

/// Jobs that compete for the same slots.
pub struct Queue {
    pub name: &'static str,
    /// How many run at the same time in one worker.
    pub concurrency: usize,
}

/// A kind of job; the value is its arguments.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What [`Job::run`] is given.
    type State;

    /// `<resource>.<verb>`. Rows carry it: renaming one abandons what is queued.
    const KIND: &'static str;
    const QUEUE: &'static Queue;
    /// Higher goes first.
    const PRIORITY: i16 = 0;
    /// Times it is begun before it is a dead letter.
    const MAX_ATTEMPTS: i16 = 12;
    /// How long one attempt may take.
    const TIMEOUT: Duration = TIMEOUT;

    /// Of several unfinished jobs of this kind with the same key only the first is kept.
    fn unique_key(&self) -> Option<String> {
        None
    }

    /// The wait after the attempt of this number failed, the first being 1.
    fn delay_after(attempt: i16) -> Duration {
        backoff::exponential(attempt)
    }

    /// Does the work. It may be begun more than once: what must happen once is done in a
    /// transaction that [`Lease::hold`]s the job, or is idempotent.
    fn run(
        self,
        app: &Self::State,
        lease: &Lease,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How long a job waits while calls to a service are kept away, in seconds.
const KEPT_AWAY: std::ops::Range<f64> = 4.0..12.0;

/// Why a job was not done.
#[derive(Debug)]
pub enum Failure {
    /// To be tried again after its usual delay, or after this one if it is longer: whoever is
    /// asked may want more patience of us, but cannot make us use up our attempts in no time.
    Retry { why: String, after: Option<Duration> },
    /// Not begun in truth: to be tried again later, without counting as an attempt.
    Postpone(Duration),
    /// It will never succeed: a dead letter.
    Hopeless(String),
}

impl Failure {
    pub fn retry(why: impl std::fmt::Display) -> Self {
        Self::Retry { why: why.to_string(), after: None }
    }

    /// For when a service is left alone for a moment: not all for the same time.
    pub fn postpone_while_kept_away() -> Self {
        Self::Postpone(Duration::from_secs_f64(rand::random_range(KEPT_AWAY)))
    }

    pub fn hopeless(why: impl std::fmt::Display) -> Self {
        Self::Hopeless(why.to_string())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::retry(error)
    }
}

impl From<db::Error> for Failure {
    fn from(error: db::Error) -> Self {
        Self::retry(error)
    }
}

impl From<super::http::error::ApiError> for Failure {
    fn from(error: super::http::error::ApiError) -> Self {
        // What a client would have to change will not change by itself.
        if error.is_lasting() { Self::hopeless(error) } else { Self::retry(error) }
    }
}

/// A job that is not written yet.
pub struct NewJob {
    id: Uuid,
    queue: &'static str,
    kind: &'static str,
    args: String,
    priority: i16,
    max_attempts: i16,
    unique_key: Option<String>,
    /// From now.
    delay: Duration,
    request_id: Option<String>,
    traceparent: Option<String>,
}

impl NewJob {
    /// # Errors
    /// The arguments cannot be serialised: a bug.
    pub fn new<J: Job>(job: &J) -> Result<Self, sqlx::Error> {
        let args =
            serde_json::to_string(job).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let context = Context::current();
        let context = context.as_deref();
        Ok(Self {
            id: Uuid::now_v7(),
            queue: J::QUEUE.name,
            kind: J::KIND,
            args,
            priority: J::PRIORITY,
            max_attempts: J::MAX_ATTEMPTS,
            unique_key: job.unique_key(),
            delay: Duration::ZERO,
            request_id: context.map(|context| context.request_id.clone()),
            traceparent: context.and_then(|context| context.traceparent.clone()),
        })
    }

    /// Not to be begun before `delay` has passed.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// On behalf of the request that an event came from, rather than the running one.
    pub fn caused_by(mut self, event: &super::events::Event) -> Self {
        self.request_id = event.request_id.clone();
        self.traceparent = event.traceparent.clone();
        self
    }
}

/// Writes a job in the transaction: it is begun only if, and after, that commits.
///
/// # Errors
/// The database refused, or the arguments cannot be serialised.
pub async fn enqueue<J: Job>(tx: &mut Tx, job: &J) -> Result<(), sqlx::Error> {
    enqueue_all(tx, &[NewJob::new(job)?]).await
}

/// Writes jobs by one statement. Those whose unique key is taken are left out.
///
/// # Errors
/// The database refused.
pub async fn enqueue_all(tx: &mut Tx, jobs: &[NewJob]) -> Result<(), sqlx::Error> {
    if jobs.is_empty() {
        return Ok(());
    }
    tx.leaves_work();
    queries::insert(tx, jobs).await
}
