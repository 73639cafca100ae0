//! Jobs for those who look after them: what waits, what died of what, and what can be done about
//! it. The routes and the command line share this.

mod queries;

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::platform::{
    db::{Conn, OnConstraint, Tx},
    http::error::ApiError,
};

/// A job as it is stored.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StoredJob {
    pub id: Uuid,
    pub queue: String,
    /// `<resource>.<verb>`
    #[schema(example = "orders.expire")]
    pub kind: String,
    /// `scheduled`, `available`, `running`, `completed`, `dead` or `discarded`.
    pub state: String,
    /// What it was asked to do.
    #[schema(value_type = Object)]
    pub args: serde_json::Value,
    /// Higher goes first.
    pub priority: i16,
    /// Times it was begun, and how many there may be.
    pub attempt: i16,
    pub max_attempts: i16,
    /// Of several unfinished jobs of a kind with the same key there is only one.
    pub unique_key: Option<String>,
    /// Not begun before.
    #[serde(with = "time::serde::rfc3339")]
    pub run_at: OffsetDateTime,
    /// Who has, or had it last: host, process, and a random part.
    pub worker: Option<String>,
    /// Another worker takes it over then, unless it is heard of.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Of the request that caused it.
    pub request_id: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What waits in a queue. What is finished is not counted, and of the rest no more than 100,000 of
/// a queue that are available, and of all queues that are in another state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct QueueState {
    pub queue: String,
    /// No job of it is begun until it is resumed.
    pub paused: bool,
    /// Not due yet.
    pub scheduled: i64,
    /// Due, and not begun.
    pub available: i64,
    pub running: i64,
    /// Failed for good: to be retried or discarded by a person.
    pub dead: i64,
    /// How long the first of those that are due has waited, in seconds.
    pub oldest_age_seconds: f64,
}

/// Whether jobs of a queue are begun.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct QueueSwitch {
    pub queue: String,
    /// No job of it is begun until it is resumed.
    pub paused: bool,
}

/// What came of retrying dead letters.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Retried {
    /// How many are due now. Of several with the same unique key one is, and none while another
    /// is unfinished.
    pub retried: i64,
    /// Whether there may be more: the same request goes on with them.
    pub has_more: bool,
}

/// Which dead letters.
#[derive(Debug, Clone, Copy)]
pub struct Dead<'a> {
    pub queue: Option<&'a str>,
    pub kind: Option<&'a str>,
}

/// The queues of `known`, and whatever else has unfinished jobs or is paused, by name.
///
/// # Errors
/// The database refused.
pub async fn queues(
    conn: &mut Conn,
    known: impl Iterator<Item = &'static super::Queue>,
) -> Result<Vec<QueueState>, sqlx::Error> {
    let mut states: BTreeMap<String, QueueState> =
        known.map(|queue| (queue.name.to_owned(), QueueState::default())).collect();
    for queue in queries::paused(conn).await? {
        states.entry(queue).or_default().paused = true;
    }
    for depth in super::queries::depths(conn).await? {
        let state = states.entry(depth.queue).or_default();
        match depth.state.as_str() {
            "scheduled" => state.scheduled = depth.count,
            "running" => state.running = depth.count,
            "dead" => state.dead = depth.count,
            _ => {
                state.available = depth.count;
                state.oldest_age_seconds = depth.oldest_seconds;
            }
        }
    }
    Ok(states.into_iter().map(|(queue, state)| QueueState { queue, ..state }).collect())
}

/// A page of dead letters, newest first, from behind `before`.
///
/// # Errors
/// The database refused.
pub async fn dead(
    conn: &mut Conn,
    queue: Option<&str>,
    before: Uuid,
    limit: i64,
) -> Result<Vec<StoredJob>, sqlx::Error> {
    queries::list_dead(conn, queue, before, limit).await
}

/// # Errors
/// 404.
pub async fn find(conn: &mut Conn, id: Uuid) -> Result<StoredJob, ApiError> {
    queries::find(conn, id).await?.ok_or_else(ApiError::not_found)
}

/// Makes a job due now, with all its attempts before it: one that died, was discarded, or would
/// run later.
///
/// # Errors
/// 404, 409 while it runs, once it is completed, and if there is another with its unique key.
pub async fn retry(tx: &mut Tx, id: Uuid) -> Result<StoredJob, ApiError> {
    let job = queries::find_for_update(tx, id).await?.ok_or_else(ApiError::not_found)?;
    match job.state.as_str() {
        "dead" | "discarded" | "scheduled" => {
            let revived = queries::revive(tx, id).await;
            let job = revived.on_constraint("jobs_unique_key_idx", || {
                ApiError::conflict("job_is_there", "Another job with its unique key is unfinished.")
            })?;
            tx.leaves_work();
            Ok(job)
        }
        "available" => Ok(job),
        state => Err(refused(state, "retried")),
    }
}

/// Dead letters that one call makes due, at most: one statement, done long before its time-out.
const RETRIED_AT_ONCE: i64 = 1_000;

/// Makes dead letters due now, with all their attempts before them, those that were written first
/// before the others. To be committed.
///
/// # Errors
/// 409 if another with the unique key of one of them was written meanwhile.
pub async fn retry_dead(tx: &mut Tx, which: Dead<'_>) -> Result<Retried, ApiError> {
    let revived = queries::revive_dead(tx, which, RETRIED_AT_ONCE).await;
    let (found, retried) = revived.on_constraint("jobs_unique_key_idx", || {
        ApiError::conflict("job_is_there", "Another job with a unique key of theirs is unfinished.")
    })?;
    tx.leaves_work();
    Ok(Retried { retried, has_more: found == RETRIED_AT_ONCE })
}

/// Ends a job that has not been begun, or has died, without its being done.
///
/// # Errors
/// 404, 409 while it runs and once it is completed.
pub async fn discard(tx: &mut Tx, id: Uuid) -> Result<StoredJob, ApiError> {
    let job = queries::find_for_update(tx, id).await?.ok_or_else(ApiError::not_found)?;
    match job.state.as_str() {
        "dead" | "available" | "scheduled" => Ok(queries::discard(tx, id).await?),
        "discarded" => Ok(job),
        state => Err(refused(state, "discarded")),
    }
}

fn refused(state: &str, what: &str) -> ApiError {
    ApiError::conflict("job_is_under_way", format!("A job that is {state} cannot be {what}."))
}

/// Whether there is such a queue: one of `known`, or one of another build's that is paused. Jobs
/// are not looked at, so that it takes no time however many there are.
///
/// # Errors
/// The database refused.
pub async fn is_queue(
    conn: &mut Conn,
    mut known: impl Iterator<Item = &'static super::Queue>,
    name: &str,
) -> Result<bool, sqlx::Error> {
    Ok(known.any(|queue| queue.name == name)
        || queries::paused(conn).await?.iter().any(|paused| paused == name))
}

/// Keeps jobs of a queue from being begun; those that run go on. To be committed.
///
/// # Errors
/// The database refused.
pub async fn pause(tx: &mut Tx, queue: &str) -> Result<(), sqlx::Error> {
    queries::pause(tx, queue).await
}

/// Lets the jobs of a queue be begun again. To be committed.
///
/// # Errors
/// The database refused.
pub async fn resume(tx: &mut Tx, queue: &str) -> Result<(), sqlx::Error> {
    tx.leaves_work();
    queries::resume(tx, queue).await
}
