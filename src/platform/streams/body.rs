//! What a stream's client reads.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{future::BoxFuture, stream};
use http::{HeaderName, header};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::sleep_until;
use uuid::Uuid;

use super::{
    Stream,
    checkpoint::{Checkpoint, DISORDER},
};
use crate::platform::{
    db,
    events::{Event, feed::Heard},
};

/// A comment is sent when nothing else was for this long, so that proxies keep the connection and
/// a client that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// nginx passes on at once what it would else gather.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Where to look for events in the database from.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// This long before now, by the clock of the database.
    Ago(Duration),
    /// Behind the event of this time and id.
    Behind(OffsetDateTime, Uuid),
}

/// Looks for the owner's events, oldest first. Empty at their end.
pub type CatchUp =
    Box<dyn Fn(From) -> BoxFuture<'static, Result<Vec<Event>, db::Error>> + Send + Sync>;

/// An open stream as its client sees it. Ten thousand of them have to fit into a process.
pub struct Reader {
    stream: Stream,
    catch_up: CatchUp,
    seen: Checkpoint,
    gap: Option<Gap>,
    /// When the client is to hear something.
    beat: Instant,
    /// When its token is no longer good.
    end: Instant,
    is_over: bool,
}

/// Events that may have been missed.
struct Gap {
    from: Missed,
    /// Not all streams look for theirs at once.
    due: Instant,
}

#[derive(Clone, Copy)]
enum Missed {
    Since(Instant),
    Behind(OffsetDateTime, Uuid),
}

/// An event as the client gets it: the same bytes, whichever way it came.
#[derive(Serialize)]
struct Told<'e> {
    id: Uuid,
    r#type: &'e str,
    subject_id: Uuid,
    sequence: i32,
    data: &'e serde_json::Value,
}

impl Reader {
    /// `end` is when the client's token ends. `seen` is what the client has seen, up to `since`
    /// by the clock of the database: the stream begins with what came later.
    pub fn new(
        stream: Stream,
        catch_up: CatchUp,
        end: Instant,
        seen: Checkpoint,
        since: Option<OffsetDateTime>,
    ) -> Self {
        let now = Instant::now();
        let from = |since| Missed::Behind(since - DISORDER, Uuid::nil());
        let gap = since.map(|since| Gap { from: from(since), due: now });
        Self { stream, catch_up, seen, gap, beat: now + HEARTBEAT, end, is_over: false }
    }

    /// The response, whose head is sent at once. Without anything seen, `start` is the id to
    /// come back with.
    pub fn into_response(self, start: Option<Uuid>) -> Response {
        let cut = self.stream.cut.clone();
        let mut head = format!("retry: {}\n", retry_millis());
        if let Some(start) = start {
            let _ = writeln!(head, "id: {start}");
        }
        head.push('\n');
        let rest = stream::unfold(Box::new(self), Self::next);
        let head = stream::once(async move { Bytes::from(head) });
        let body = stream::StreamExt::chain(head, rest);
        let body =
            Body::from_stream(stream::StreamExt::map(body, Ok::<_, std::convert::Infallible>));
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            (NO_BUFFERING, "no"),
        ];
        let mut response = (headers, body).into_response();
        response.extensions_mut().insert(cut);
        response
    }

    async fn next(mut self: Box<Self>) -> Option<(Bytes, Box<Self>)> {
        let mut text = String::new();
        while text.is_empty() {
            if self.is_over {
                return None;
            }
            if self.gap.as_ref().is_some_and(|gap| gap.due <= Instant::now()) {
                // On the heap: most streams never do this.
                Box::pin(self.look_up(&mut text)).await;
                continue;
            }
            let due = self.gap.as_ref().map_or(self.beat, |gap| gap.due);
            tokio::select! {
                biased;
                heard = self.stream.words.recv() => self.hear(heard, &mut text),
                () = sleep_until(due.min(self.beat).min(self.end).into()) => self.wake(&mut text),
            }
        }
        self.beat = Instant::now() + HEARTBEAT;
        Some((Bytes::from(text), self))
    }

    fn hear(&mut self, heard: Option<Heard>, text: &mut String) {
        match heard {
            Some(Heard::Event(event)) => self.write(&event, text),
            Some(Heard::Lost) => self.stream.is_whole = false,
            Some(Heard::Found(since)) => {
                let open = self.stream.streams.open.get().unsigned_abs();
                let due = Instant::now() + Duration::from_millis(rand::random_range(0..=open));
                // One that waits to be looked up began earlier.
                let from = self.gap.take().map_or(Missed::Since(since), |gap| gap.from);
                self.gap = Some(Gap { from, due });
                self.stream.is_whole = true;
            }
            None => self.say_goodbye(text),
        }
    }

    fn wake(&mut self, text: &mut String) {
        let now = Instant::now();
        if now >= self.end {
            self.say_goodbye(text);
        } else if now >= self.beat {
            text.push_str(":\n\n");
        }
    }

    async fn look_up(&mut self, text: &mut String) {
        let Some(gap) = self.gap.take() else { return };
        let from = match gap.from {
            Missed::Since(since) => From::Ago(since.elapsed() + DISORDER),
            Missed::Behind(time, id) => From::Behind(time, id),
        };
        match (self.catch_up)(from).await {
            Ok(events) => {
                if let Some(last) = events.last() {
                    let from = Missed::Behind(last.created_at, last.id);
                    self.gap = Some(Gap { from, due: gap.due });
                }
                for event in &events {
                    // In the order of their time: the client may come back from any of them.
                    if self.seen.note(event) {
                        self.write_noted(event, true, text);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a stream cannot look for what it missed");
                self.say_goodbye(text);
            }
        }
    }

    fn write(&mut self, event: &Event, text: &mut String) {
        if self.seen.note(event) {
            let is_checkpoint = self.stream.is_whole && self.gap.is_none();
            self.write_noted(event, is_checkpoint, text);
        }
    }

    /// Without an `id:` line the client comes back from an earlier event.
    fn write_noted(&self, event: &Event, is_checkpoint: bool, text: &mut String) {
        let Event { id, kind, subject_id, sequence, data, .. } = event;
        let told =
            Told { id: *id, r#type: kind, subject_id: *subject_id, sequence: *sequence, data };
        // Made of what was JSON before: this cannot fail.
        let Ok(told) = serde_json::to_string(&told) else { return };
        if is_checkpoint {
            text.push_str("id: ");
            self.seen.write(text);
            text.push('\n');
        }
        let _ = write!(text, "event: {kind}\ndata: {told}\n\n");
    }

    /// The client is to come back, though not at the same moment as all others.
    fn say_goodbye(&mut self, text: &mut String) {
        let _ = write!(text, "retry: {}\n\n", retry_millis());
        self.is_over = true;
    }
}

fn retry_millis() -> u32 {
    rand::random_range(500..3_000)
}
