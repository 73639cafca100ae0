//! Live streams of a user's own events, as server-sent events (WHATWG HTML, 9.2), from any replica.
//!
//! What a stream must not do is lose an event without its client's knowing. It hears of events
//! twice, from this process's own commits and from the relays through Redis, and of any gap in
//! the latter; after a gap it looks into the database. Its `id:` lines, which the client sends
//! back as `Last-Event-ID`, are withheld while something may have been missed.
//!
//! Reading order: this file, `body.rs`, `checkpoint.rs`, `watch.rs`.

mod body;
mod checkpoint;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use uuid::Uuid;

pub use self::{
    body::{CatchUp, From, Reader},
    checkpoint::{Checkpoint, time_of},
};
use super::{
    events::{
        Event,
        feed::{Everywhere, Heard, Local},
    },
    http::{connection::Cut, error::ApiError},
    metrics::Metrics,
    redis::Redis,
    sessions::Sessions,
    shutdown::Tasks,
};

/// Events that a stream's client may be behind by, besides what its connection holds.
const BEHIND: usize = 32;

/// How long streams have to end by themselves when the process ends.
const FAREWELL: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Config {
    /// Open streams in this process.
    pub max: usize,
    /// Of one user, in this process.
    pub max_per_user: usize,
}

/// The open streams of this process. Cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    config: Config,
    everywhere: Everywhere,
    table: Mutex<Table>,
    open: IntGauge,
    /// By reason.
    ended: IntCounterVec,
}

#[derive(Default)]
struct Table {
    by_user: HashMap<Uuid, Vec<Entry>>,
    next: u64,
    /// Streams that hold memory, among them those that were told to end.
    count: usize,
    /// Whether events of other processes may be missed right now.
    is_lost: bool,
    /// The process is about to end.
    is_closed: bool,
}

/// How to reach an open stream; dropping it makes the stream end.
struct Entry {
    number: u64,
    session_id: Uuid,
    kinds: &'static str,
    words: mpsc::Sender<Heard>,
    cut: Cut,
}

/// An open stream, until it is dropped.
pub struct Stream {
    streams: Arc<Inner>,
    user_id: Uuid,
    number: u64,
    words: mpsc::Receiver<Heard>,
    cut: Cut,
    /// Whether nothing is being missed.
    is_whole: bool,
}

impl Streams {
    /// # Errors
    /// A metric is registered twice.
    pub fn new(config: &Config, metrics: &Metrics) -> prometheus::Result<Self> {
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            everywhere: Everywhere::default(),
            // Until Redis was heard of.
            table: Mutex::new(Table { is_lost: true, ..Table::default() }),
            open: metrics.int_gauge("event_streams", "Open streams of events.")?,
            ended: metrics.counter_vec(
                "event_streams_ended_total",
                "Streams that were ended by this process: slow, unauthorized, draining.",
                &["reason"],
            )?,
        })))
    }

    /// Begins to feed the streams, and to watch over them, until the process ends.
    pub fn start(&self, local: &Local, redis: &Redis, sessions: &Sessions, tasks: &Tasks) {
        let inner = self.0.clone();
        let (mut here, mut fleet) = (local.subscribe(), inner.everywhere.subscribe());
        let (redis, sessions, stopping) = (redis.clone(), sessions.clone(), tasks.stopping());
        let draining = tasks.draining();
        tasks.spawn(async move {
            let pass_on = async {
                let mut heard_at = Instant::now();
                loop {
                    let heard = tokio::select! {
                        heard = here.recv() => heard.map(Heard::Event),
                        heard = fleet.recv() => heard,
                    };
                    match heard {
                        Ok(heard) => inner.tell(heard),
                        Err(RecvError::Lagged(_)) => inner.overslept(heard_at),
                        Err(RecvError::Closed) => return,
                    }
                    heard_at = Instant::now();
                }
            };
            let end = async {
                draining.await;
                inner.end_all().await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = pass_on => {}
                () = inner.everywhere.listen(&redis) => {}
                () = watch::sessions(&inner, &sessions) => {}
                () = end => {}
                () = stopping => {}
            }
        });
    }

    /// A stream of those of a user's events whose kind begins with `kinds`.
    ///
    /// # Errors
    /// 429 when the user has too many, 503 when the process has, or when it is about to end.
    pub fn open(
        &self,
        user_id: Uuid,
        session_id: Uuid,
        kinds: &'static str,
    ) -> Result<Stream, ApiError> {
        let inner = &self.0;
        let mut table = inner.table();
        if table.is_closed {
            return Err(ApiError::unavailable("draining", "This replica is about to end."));
        }
        if table.count >= inner.config.max {
            return Err(ApiError::overloaded("Too many streams are open; try again shortly."));
        }
        let number = table.next;
        let own = table.by_user.entry(user_id).or_default();
        if own.len() >= inner.config.max_per_user {
            let most = inner.config.max_per_user;
            return Err(ApiError::new(
                http::StatusCode::TOO_MANY_REQUESTS,
                "too_many_streams",
                format!("You have {most} streams open: close one first."),
            )
            .retry_after(Duration::from_secs(15)));
        }
        let (words, receiver) = mpsc::channel(BEHIND);
        let cut = Cut::default();
        own.push(Entry { number, session_id, kinds, words, cut: cut.clone() });
        table.next += 1;
        table.count += 1;
        inner.open.inc();
        let (streams, is_whole) = (inner.clone(), !table.is_lost);
        Ok(Stream { streams, user_id, number, words: receiver, cut, is_whole })
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, heard: Heard) {
        match heard {
            Heard::Event(event) => self.tell_owner(&event),
            Heard::Lost => self.tell_all(&Heard::Lost, true),
            Heard::Found(since) => self.tell_all(&Heard::Found(since), false),
        }
    }

    fn tell_owner(&self, event: &Arc<Event>) {
        let Some(owner) = event.customer_id else { return };
        let mut table = self.table();
        if let Some(entries) = table.by_user.get_mut(&owner) {
            entries.retain(|entry| {
                !event.kind.starts_with(entry.kinds)
                    || self.send(entry, Heard::Event(event.clone()))
            });
        }
    }

    fn tell_all(&self, heard: &Heard, is_lost: bool) {
        let mut table = self.table();
        table.is_lost = is_lost;
        for entries in table.by_user.values_mut() {
            entries.retain(|entry| self.send(entry, heard.clone()));
        }
    }

    /// Events came faster than this task could pass them on.
    fn overslept(&self, since: Instant) {
        // While more is lost, what follows makes up for this, too.
        if !self.table().is_lost {
            self.tell_all(&Heard::Found(since), false);
        }
    }

    /// `false` if the client does not read: rather than to gather what it has to be sent, it is
    /// cut off, and asks for the rest when it comes back.
    fn send(&self, entry: &Entry, heard: Heard) -> bool {
        let is_taken = entry.words.try_send(heard).is_ok();
        if !is_taken {
            self.ended.with_label_values(&["slow"]).inc();
            entry.cut.now();
        }
        is_taken
    }

    /// Tells the streams that `must_end` to.
    fn end(&self, reason: &str, must_end: impl Fn(&Entry) -> bool) {
        let mut table = self.table();
        for entries in table.by_user.values_mut() {
            entries.retain(|entry| {
                let ends = must_end(entry);
                if ends {
                    self.ended.with_label_values(&[reason]).inc();
                }
                !ends
            });
        }
    }

    /// Lets no new ones in, lets those there are say good-bye, and cuts off who does not listen.
    async fn end_all(&self) {
        let cuts: Vec<Cut> = {
            let mut table = self.table();
            table.is_closed = true;
            table.by_user.values().flatten().map(|entry| entry.cut.clone()).collect()
        };
        self.end("draining", |_| true);
        tokio::time::sleep(FAREWELL).await;
        for cut in cuts {
            cut.now();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.cut.forget();
        let mut table = self.streams.table();
        if let Some(entries) = table.by_user.get_mut(&self.user_id) {
            entries.retain(|entry| entry.number != self.number);
            if entries.is_empty() {
                table.by_user.remove(&self.user_id);
            }
        }
        table.count -= 1;
        self.streams.open.dec();
    }
}
