//! Jobs of webhooks: one for events that were passed on together, which finds out who is told of
//! them, and one per delivery.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::{super::model::RESOURCES, Body, queries, wait_after};
use crate::{
    platform::{
        db::{self, Db},
        events::Event,
        jobs::{Ask, Failure, Job, Lease, NewJob, Queue, Registry, enqueue_all},
        webhooks::{Delivered, Due, Failed, Message, Recorded, Secret},
    },
    state::AppState,
};

/// Most of them wait for somebody else's server.
const WEBHOOKS: Queue = Queue { name: "webhooks", concurrency: 256 };

/// Apart, so that no receiver keeps others from being told of an event. Two, so that the next is
/// read while one waits for its commit.
const FAN_OUT: Queue = Queue { name: "webhooks_fan_out", concurrency: 2 };

/// Deliveries that one transaction makes, at most: far fewer than time out.
const MOST_AT_ONCE: usize = 2_000;

/// Before a receiver that wants no more is asked again, because nobody could write that down.
const UNRECORDED_WAIT: Duration = Duration::from_secs(600);

/// How often what ended long ago is deleted, and how much of it by one statement.
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);
const PURGE_BATCH: i64 = 5_000;

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new().once_per_batch(FanOut::of).job::<Deliver>().schedule(
        "webhooks.purge",
        PURGE_INTERVAL,
        || Purge {},
    )
}

/// Makes deliveries of events that were passed on together, for each endpoint that asked for them.
#[derive(Serialize, Deserialize)]
struct FanOut {
    event_ids: Vec<Uuid>,
}

impl FanOut {
    fn of(events: &[Event]) -> Option<Self> {
        let is_offered = |event: &&Event| {
            event.kind.split_once('.').is_some_and(|(resource, _)| RESOURCES.contains(&resource))
        };
        let event_ids: Vec<Uuid> = events.iter().filter(is_offered).map(|event| event.id).collect();
        (!event_ids.is_empty()).then_some(Self { event_ids })
    }
}

impl Job for FanOut {
    type State = AppState;
    const KIND: &'static str = "webhooks.fan_out";
    const QUEUE: &'static Queue = &FAN_OUT;
    /// To lose one is to lose deliveries: until whatever is wrong is mended.
    const MAX_ATTEMPTS: i16 = 200;

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        // Nobody asks for most events, which takes no transaction to find out.
        let mut conn = app.db.primary().await?;
        let events = queries::find_asked_for(&mut conn, &self.event_ids).await?;
        if events.is_empty() {
            return Ok(());
        }
        let endpoints = queries::count_enabled(&mut conn).await?.max(1);
        drop(conn);
        let at_once = MOST_AT_ONCE / usize::try_from(endpoints).unwrap_or(MOST_AT_ONCE);
        for some in events.chunks(at_once.max(1)) {
            make_deliveries(&app.db, some).await?;
        }
        Ok(())
    }
}

/// No lease is held: of two that do this, one finds that there is nothing to insert.
async fn make_deliveries(db: &Db, events: &[Event]) -> Result<(), Failure> {
    let bodies = bodies(events)?;
    let mut tx = db.begin().await?;
    let inserted = queries::fan_out(&mut tx, events, &bodies).await?;
    let events: HashMap<Uuid, &Event> = events.iter().map(|event| (event.id, event)).collect();
    let mut jobs = Vec::with_capacity(inserted.len());
    for new in inserted {
        let job = Deliver { delivery: new.id, endpoint: new.endpoint_id, round: 1 };
        let job = NewJob::new(&job)?;
        jobs.push(match events.get(&new.event_id) {
            Some(event) => job.caused_by(event),
            None => job,
        });
    }
    enqueue_all(&mut tx, &jobs).await?;
    tx.commit().await?;
    Ok(())
}

/// What is sent of each event.
fn bodies(events: &[Event]) -> Result<Vec<String>, Failure> {
    let body = |event: &Event| {
        let Event { kind, created_at, data, .. } = event;
        serde_json::to_string(&Body { kind, timestamp: *created_at, data })
    };
    events.iter().map(body).collect::<Result<_, _>>().map_err(Failure::hopeless)
}

/// Delivers, as often as it takes. How often it was tried is in the delivery's row: an attempt that
/// ended with its worker before it was made does not count.
#[derive(Serialize, Deserialize)]
pub(in crate::domain::webhooks) struct Deliver {
    pub(in crate::domain::webhooks) delivery: Uuid,
    pub(in crate::domain::webhooks) endpoint: Uuid,
    pub(in crate::domain::webhooks) round: i32,
}

impl Job for Deliver {
    type State = AppState;
    const KIND: &'static str = "webhooks.deliver";
    const QUEUE: &'static Queue = &WEBHOOKS;
    const MAX_ATTEMPTS: i16 = 200;

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let place = app.webhooks.enter(self.endpoint).await.map_err(Failure::Postpone)?;
        let batches = &app.webhooks.batches;
        let ask: Ask<_, _> = |db, wanted| {
            async move { Ok(queries::find_due(&mut db.primary().await?, &wanted).await?) }.boxed()
        };
        let due = batches.due.call(&app.db, (self.delivery, self.round), ask).await?;
        let Some(due) = due else { return Ok(()) };
        if due.wait > 0.0 {
            // The worker of the attempt before ended before it could say that there is to be
            // another, and when.
            return Err(Failure::Postpone(Duration::from_secs_f64(due.wait)));
        }
        if let Some(why) = due.ended {
            return self.failed(app, due.attempts, Attempt::ended(&why)).await;
        }
        let Due { body, attempts, url, secret, previous_secret, .. } = due;
        let Ok(url) = Url::parse(&url) else {
            return self.failed(app, attempts, Attempt::ended("the address is none")).await;
        };
        let secrets: Vec<Secret> =
            [Some(secret), previous_secret].into_iter().flatten().map(Secret::from).collect();
        let message =
            Message { url, id: self.delivery, body: Bytes::from(body), secrets: &secrets };
        let answer = match app.webhooks.send(place, message).await {
            Ok(answer) => answer,
            Err(error) => {
                let wait = wait_after(attempts + 1, None);
                let attempt = Attempt { wait, ..Attempt::ended(&error.to_string()) };
                return self.failed(app, attempts, attempt).await;
            }
        };
        let status = answer.status.as_u16() as i16;
        if answer.status.is_success() {
            let delivered = Delivered { id: self.delivery, round: self.round, status };
            return batches.delivered.call(&app.db, delivered, record_delivered).await;
        }
        let is_gone = answer.status == StatusCode::GONE;
        let attempt = Attempt {
            status: Some(status),
            error: format!("answered {status}"),
            wait: wait_after(attempts + 1, answer.retry_after).filter(|_| !is_gone),
            is_gone,
        };
        self.failed(app, attempts, attempt).await
    }
}

fn record_delivered(
    db: Db,
    delivered: Arc<[Delivered]>,
) -> BoxFuture<'static, Result<Vec<()>, db::Error>> {
    async move {
        queries::record_delivered(&mut db.primary().await?, &delivered).await?;
        Ok(delivered.iter().map(|_| ()).collect())
    }
    .boxed()
}

fn record_failed(
    db: Db,
    failed: Arc<[Failed]>,
) -> BoxFuture<'static, Result<Vec<Recorded>, db::Error>> {
    async move { Ok(queries::record_failed(&mut db.primary().await?, &failed).await?) }.boxed()
}

/// How an attempt failed.
struct Attempt {
    status: Option<i16>,
    error: String,
    wait: Option<Duration>,
    is_gone: bool,
}

impl Attempt {
    /// Without an answer, and not to be followed by another.
    fn ended(error: &str) -> Self {
        Self { status: None, error: error.to_owned(), wait: None, is_gone: false }
    }
}

impl Deliver {
    /// Records a failure. A delivery that has failed for good is a completed job: what is wrong is
    /// not ours to mend, and its row tells of it.
    async fn failed(&self, app: &AppState, attempts: i16, attempt: Attempt) -> Result<(), Failure> {
        let Attempt { status, error, wait, is_gone } = attempt;
        let failed = Failed {
            id: self.delivery,
            round: self.round,
            attempts,
            status,
            error: error.clone(),
            wait: wait.map(|wait| wait.as_secs_f64()),
            is_gone,
        };
        let recorded = match app.webhooks.batches.failed.call(&app.db, failed, record_failed).await
        {
            Ok(recorded) => recorded,
            // It is not written down that there was an attempt: at least its receiver is left alone
            // for as long as it asked for.
            Err(Failure::Retry { why, .. }) => {
                return Err(Failure::Retry { why, after: wait.or(Some(UNRECORDED_WAIT)) });
            }
            Err(failure) => return Err(failure),
        };
        if let Some(reason) = recorded.disabled {
            tracing::warn!(webhook = %self.endpoint, reason, "a webhook is disabled");
        }
        match wait {
            Some(_) => Err(Failure::Retry { why: error, after: wait }),
            // Another worker has recorded this attempt, and perhaps that there is to be another.
            None if !recorded.is_recorded => Err(Failure::retry("recorded by another worker")),
            None => Ok(()),
        }
    }
}

/// Deletes deliveries that ended long ago.
#[derive(Serialize, Deserialize)]
struct Purge {}

impl Job for Purge {
    type State = AppState;
    const KIND: &'static str = "webhooks.purge";
    const QUEUE: &'static Queue = &WEBHOOKS;

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let mut conn = app.db.primary().await?;
        while queries::purge(&mut conn, PURGE_BATCH).await? == PURGE_BATCH.unsigned_abs() {}
        Ok(())
    }
}
