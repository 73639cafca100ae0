//! Work that takes a core for a while, or much memory: off the async threads, a few at a time, and
//! refused rather than queued for long.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::context;

/// How long somebody waits for a turn before it is told to come back.
const WAIT: Duration = Duration::from_secs(2);

/// As many as this process may use: no more work than that is done any faster.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Turns {
    /// Working, or waiting to.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// The leave to do one piece of work. What is gathered for it meanwhile is bounded with it.
pub struct Turn {
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

/// Too many wait already, or it took too long.
#[derive(Debug, thiserror::Error)]
#[error("too much work of this kind at once")]
pub struct Busy;

impl Turns {
    /// `parallel` pieces of work at a time, with `waiting` more for each.
    pub fn new(parallel: usize, waiting: usize) -> Self {
        let places = Arc::new(Semaphore::new(parallel * (1 + waiting)));
        Self { places, turns: Arc::new(Semaphore::new(parallel)) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// `Busy`, at once where too many wait.
    pub async fn take(&self) -> Result<Turn, Busy> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Busy)?;
        let turn = timeout(context::remaining(WAIT), self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Busy)?.map_err(|_| Busy)?;
        Ok(Turn { _place: place, _turn: turn })
    }
}

impl Turn {
    /// Works on a thread of its own, and gives the turn back with what came of it. It is held by
    /// the work itself meanwhile: a client that hangs up must not free the core early.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            (self, done)
        });
        done.await.context("the work panicked")
    }
}
