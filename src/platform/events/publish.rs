//! Fans events out over Redis: to every replica, at most once, and to other services.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Event, feed::Message};
use crate::platform::redis::{Redis, Script, Unavailable, cmd};

/// About how many events the stream for other services keeps: a day of an event a second.
pub(super) const STREAM_LENGTH: i64 = 100_000;

/// The channel that replicas listen on for events.
pub(super) fn channel(redis: &Redis) -> String {
    redis.key("events")
}

/// Where other services read (`XREAD`).
fn stream(redis: &Redis) -> String {
    redis.key("stream:events")
}

pub(super) struct Publisher {
    redis: Redis,
    script: Script,
    channel: String,
    stream: String,
    /// Since when events could not be published that nobody was told to have missed.
    missed_since: Mutex<Option<Instant>>,
}

/// Who is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Everybody,
    /// Not the stream: there are events that have to go before these.
    Listeners,
    /// Only the stream: those who listen were told when it happened.
    Stream,
}

impl Publisher {
    pub(super) fn new(redis: Redis) -> Self {
        let (channel, stream) = (channel(&redis), stream(&redis));
        Self {
            script: Script::new(include_str!("publish.lua")),
            channel,
            stream,
            redis,
            missed_since: Mutex::default(),
        }
    }

    /// How many of the events, from the first on, are in the stream. It may be more of them, should
    /// the answer have been lost.
    pub(super) async fn publish(&self, events: &[Event], to: To) -> Result<usize, Unavailable> {
        self.tell_of_missed().await;
        if events.is_empty() {
            return Ok(0);
        }
        let mut call = self.script.call(&[&self.stream]).arg(&self.channel).arg(STREAM_LENGTH);
        for event in events {
            let message = match to {
                To::Stream => String::new(),
                To::Everybody | To::Listeners => json(&Message::Event(event))?,
            };
            let cloud_event = match to {
                To::Listeners => String::new(),
                To::Everybody | To::Stream => json(&CloudEvent::from(event))?,
            };
            call = call.arg(message).arg(cloud_event);
        }
        let appended = self.redis.call(&call).await;
        if appended.is_err() && to != To::Stream {
            self.missed().get_or_insert_with(Instant::now);
        }
        appended
    }

    fn missed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.missed_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process may have kept its own connection to Redis, and not know that it missed events.
    async fn tell_of_missed(&self) {
        let Some(since) = *self.missed() else { return };
        let missed_seconds = since.elapsed().as_secs_f64();
        let Ok(message) = json(&Message::<()>::Missed { missed_seconds }) else { return };
        let mut publish = cmd("PUBLISH");
        publish.arg(&self.channel).arg(message);
        if self.redis.run::<i64>(&publish).await.is_ok() {
            *self.missed() = None;
        }
    }
}

fn json(value: &impl Serialize) -> Result<String, Unavailable> {
    serde_json::to_string(value).map_err(|error| {
        tracing::error!(%error, "an event cannot be serialised");
        Unavailable
    })
}

/// CloudEvents 1.0, JSON format.
#[derive(Serialize)]
struct CloudEvent<'e> {
    specversion: &'static str,
    id: Uuid,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'e str,
    subject: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    datacontenttype: &'static str,
    /// An extension of CloudEvents: the version of the subject that the event made.
    sequence: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'e str>,
    data: &'e serde_json::Value,
}

impl<'e> From<&'e Event> for CloudEvent<'e> {
    fn from(event: &'e Event) -> Self {
        Self {
            specversion: "1.0",
            id: event.id,
            source: "/shoal",
            kind: &event.kind,
            subject: event.subject_id,
            time: event.created_at,
            datacontenttype: "application/json",
            sequence: event.sequence,
            traceparent: event.traceparent.as_deref(),
            data: &event.data,
        }
    }
}
