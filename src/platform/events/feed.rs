//! Hands events to those who listen in this process, at most once: who must not miss any gets a
//! job (`Registry::once`), or looks into the database after a gap.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{Emitted, Event, publish};
use crate::platform::{context::Context, redis::Redis};

/// Events that a listener may be behind by before it misses some.
const BEHIND: usize = 4_096;

/// How often the connection is asked whether it is one, and how long it may think about it: what
/// a connection that fell silent swallows is noticed within both together.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_WAIT: Duration = Duration::from_millis(500);

/// Between two attempts to subscribe.
const RETRY: Duration = Duration::from_millis(250);

/// Events of the transactions of this process, told right after their commit, whatever has become
/// of Redis. Cheap to clone.
#[derive(Clone)]
pub struct Local(broadcast::Sender<Arc<Event>>);

impl Default for Local {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Local {
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }

    /// Tells of what a transaction has committed. Free while nobody listens.
    pub(in crate::platform) fn tell(&self, committed: &[Emitted]) {
        if self.0.receiver_count() == 0 || committed.is_empty() {
            return;
        }
        let context = Context::current();
        let created_at = OffsetDateTime::now_utc();
        for event in committed {
            let Ok(data) = serde_json::from_str(event.data.get()) else { continue };
            let event = Event {
                id: event.id,
                kind: event.kind.to_owned(),
                subject_id: event.subject_id,
                sequence: event.sequence,
                customer_id: event.customer_id,
                data,
                request_id: context.as_ref().map(|context| context.request_id.clone()),
                traceparent: context.as_ref().and_then(|context| context.traceparent.clone()),
                created_at,
            };
            // An error says that the last listener has just left.
            let _ = self.0.send(Arc::new(event));
        }
    }
}

/// What a listener hears of the fleet.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Event>),
    /// From now on events may be missed.
    Lost,
    /// No longer; but some may have been since then.
    Found(Instant),
}

/// What goes over the channel.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Message<E> {
    Event(E),
    /// A relay could not reach Redis: what it passed on in these last seconds nobody has heard of.
    Missed {
        missed_seconds: f64,
    },
}

/// Events of the whole fleet, told to every process by the workers' relays. Cheap to clone.
#[derive(Clone)]
pub struct Everywhere(broadcast::Sender<Heard>);

impl Default for Everywhere {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Everywhere {
    pub fn subscribe(&self) -> broadcast::Receiver<Heard> {
        self.0.subscribe()
    }

    /// Listens. Runs until it is dropped.
    pub async fn listen(&self, redis: &Redis) {
        let mut whole_until = Instant::now();
        loop {
            if let Err(error) = self.hear(redis, &mut whole_until).await {
                tracing::debug!(%error, "not hearing of events");
            }
            self.tell(Heard::Lost);
            sleep(RETRY).await;
        }
    }

    /// Up to `whole_until` nothing was missed.
    async fn hear(&self, redis: &Redis, whole_until: &mut Instant) -> anyhow::Result<()> {
        let messages = redis.subscribe(&publish::channel(redis)).await?;
        self.tell(Heard::Found(*whole_until));
        let (mut sink, mut messages) = messages.split();
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.pass_on(&message.get_payload::<String>()?),
                    None => anyhow::bail!("the connection broke"),
                },
                _ = pings.tick() => {
                    let asked = Instant::now();
                    timeout(PING_WAIT, sink.ping::<()>()).await??;
                    *whole_until = asked;
                }
            }
        }
    }

    fn pass_on(&self, message: &str) {
        match serde_json::from_str(message) {
            Ok(Message::Event(event)) => self.tell(Heard::Event(Arc::new(event))),
            Ok(Message::Missed { missed_seconds }) => {
                let ago = Duration::try_from_secs_f64(missed_seconds).unwrap_or_default();
                let now = Instant::now();
                self.tell(Heard::Found(now.checked_sub(ago).unwrap_or(now)));
            }
            Err(error) => tracing::warn!(%error, "a message on the channel of events"),
        }
    }

    fn tell(&self, heard: Heard) {
        // An error says that nobody listens.
        let _ = self.0.send(heard);
    }
}
