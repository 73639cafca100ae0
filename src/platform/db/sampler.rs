//! Asks one server for its position, again and again.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{pool::MAX_AGE, position::Position, queries};

/// The pause between two looks while there is something to do.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Without anything to do the pause doubles up to this. The first request ends it.
const QUIET_PAUSE: Duration = Duration::from_millis(400);

/// The pause after a failed look; with it, a server that is back is used within a second.
const FAILED_PAUSE: Duration = Duration::from_millis(250);

/// Even a nudged sampler does not ask more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(2);

/// A connection of its own, kept open: one of the pool's would have to be waited for, and a busy
/// pool is no lagging server.
pub(super) struct Sampler {
    options: PgConnectOptions,
    /// How long one look may take. Not too short: when PgBouncer has more to do than connections,
    /// the look waits in its queue like everybody's statement, and a busy server is no dead one.
    limit: Duration,
    connection: Option<(Instant, PgConnection)>,
}

impl Sampler {
    pub(super) fn new(options: PgConnectOptions, limit: Duration) -> Self {
        Self { options, limit, connection: None }
    }

    /// One look; why there was none, for the log.
    pub(super) async fn look(&mut self) -> Result<Position, String> {
        // Taken out, and only put back by an answer: a look that was cut off leaves none.
        let kept = self.connection.take().filter(|(opened, _)| opened.elapsed() < MAX_AGE);
        let look = async {
            let (opened, mut connection) = match kept {
                Some(kept) => kept,
                None => (Instant::now(), PgConnection::connect_with(&self.options).await?),
            };
            let position = queries::position(&mut connection).await?;
            Ok::<_, sqlx::Error>((position, (opened, connection)))
        };
        match timeout(self.limit, Box::pin(look)).await {
            Ok(Ok((position, connection))) => {
                self.connection = Some(connection);
                Ok(position)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

/// How often to look: often while there are requests.
#[derive(Default)]
pub(super) struct Pace {
    state: AtomicU8,
    nudged: Notify,
}

/// Nothing was asked of the databases since the last look.
const UNUSED: u8 = 0;
const USED: u8 = 1;
/// As `UNUSED`, and the sampler sleeps for longer.
const RESTING: u8 = 2;

impl Pace {
    /// Notes that there is something to do.
    pub(super) fn touch(&self) {
        // In steady use only read: a store would move the cache line between cores.
        let state = self.state.load(Ordering::Relaxed);
        if state != USED {
            self.state.store(USED, Ordering::Relaxed);
            if state == RESTING {
                self.nudged.notify_one();
            }
        }
    }

    /// Asks for a look now: somebody waits for it.
    pub(super) fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Waits until it is time for the look that follows one begun at `asked`. `pause` is the last
    /// pause, and becomes this one.
    pub(super) async fn rest(&self, asked: Instant, pause: &mut Duration) {
        let was = self.state.swap(UNUSED, Ordering::Relaxed);
        *pause = if was == USED { BUSY_PAUSE } else { (*pause * 2).clamp(BUSY_PAUSE, QUIET_PAUSE) };
        if *pause > BUSY_PAUSE {
            let _ =
                self.state.compare_exchange(UNUSED, RESTING, Ordering::Relaxed, Ordering::Relaxed);
        }
        tokio::select! {
            () = sleep(*pause) => {}
            () = self.nudged.notified() => sleep(LEAST_PAUSE.saturating_sub(asked.elapsed())).await,
        }
    }

    /// Waits after a look that failed. Nobody can hurry this: there may be many who try.
    pub(super) async fn rest_after_failure(&self) {
        sleep(FAILED_PAUSE).await;
    }
}
