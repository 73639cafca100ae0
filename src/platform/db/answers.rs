//! What a server answers to one statement, as it comes.

use std::{
    io::ErrorKind,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use sqlx::{
    Either, Error,
    postgres::{PgQueryResult, PgRow},
};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    conn::Health,
    target::{Target, Timer},
};

/// What the primary or a replica answered.
pub(super) type Item = Either<PgQueryResult, PgRow>;

/// Watches over the rows of a statement: what they show of the connection goes into its health.
pub(super) struct Answers<'c> {
    items: BoxStream<'c, Result<Item, Error>>,
    health: &'c mut Health,
    target: &'c Target,
    /// Until the end, or until nobody asks for more.
    _timer: Timer<'c>,
    silence: Option<Silence>,
}

/// Between two rows there may be no more than this.
struct Silence {
    limit: Duration,
    end: Pin<Box<Sleep>>,
}

impl<'c> Answers<'c> {
    /// With a `limit` for the time between two of them, if there is one.
    pub(super) fn new(
        items: BoxStream<'c, Result<Item, Error>>,
        (health, target): (&'c mut Health, &'c Target),
        timer: Timer<'c>,
        limit: Option<Duration>,
    ) -> Self {
        health.is_asked = true;
        let silence = limit.map(|limit| Silence { limit, end: Box::pin(sleep(limit)) });
        Self { items, health, target, _timer: timer, silence }
    }
}

impl Stream for Answers<'_> {
    type Item = Result<Item, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let item = match this.items.poll_next_unpin(context) {
            Poll::Ready(item) => item,
            Poll::Pending => {
                let Some(silence) = &mut this.silence else { return Poll::Pending };
                ready!(silence.end.poll_unpin(context));
                Some(Err(silent()))
            }
        };
        let Some(item) = item else {
            this.health.is_asked = false;
            return Poll::Ready(None);
        };
        this.health.note(item.as_ref().err(), this.target);
        if let Some(Silence { limit, end }) = &mut this.silence {
            end.as_mut().reset(Instant::now() + *limit);
        }
        Poll::Ready(Some(item))
    }
}

/// The server has not said a word for too long: whatever it says now is nobody's.
pub(super) fn silent() -> Error {
    Error::Io(ErrorKind::TimedOut.into())
}
