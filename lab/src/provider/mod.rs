//! A payment provider that keeps its books in memory, and misbehaves as it is told.
//!
//! It takes money once per `Idempotency-Key`, whatever it answers: [`Turn`]s change what its callers see of
//! it, so that a test can compare what was charged with what they believe.
//!
//! - [`book`]: the charges, and the turns to come.
//! - [`http`]: HTTP/1.1 by hand, for answers that no library would send.

mod book;
mod http;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

pub use book::{Charge, Status};

use self::book::Book;
use crate::error::Result;
use crate::in_thread::{InThread, in_foreground};
use crate::net::accepts_connections;
use crate::ports::Port;
use crate::process::Process;
use crate::site::Site;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// How the provider takes one request, to charge or to void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Does it and says so.
    Honest,
    /// Answers this status, and does nothing.
    Fails(u16),
    /// Does it, and answers this status all the same.
    DoesAndFails(u16),
    /// Does it, and says so after this long.
    Slow(Duration),
    /// Does it, and says so in more words than anybody would read.
    Chatty,
    /// Does it, and says so twice.
    Twice,
    /// Does it, and says so once [`Provider::go_on`] lets it: of several the first.
    Held,
    /// Does it, and never says a word.
    Silent,
    /// Does it, and tells of another order.
    Mistaken,
}

/// What connections share.
#[derive(Clone, Default)]
struct Shared {
    state: Arc<Mutex<State>>,
    /// Notified once for each answer that is let go.
    let_go: Arc<Notify>,
}

#[derive(Default)]
struct State {
    book: Book,
    turns: VecDeque<Turn>,
    /// When there are no turns left.
    usual: Option<Turn>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_turn(&mut self) -> Turn {
        self.turns.pop_front().or(self.usual).unwrap_or(Turn::Honest)
    }
}

/// A provider inside this process, for a test; ended when this is dropped.
pub struct Provider {
    shared: Shared,
    server: InThread,
}

impl Provider {
    /// Starts one on a free port.
    pub fn start() -> Result<Self> {
        let shared = Shared::default();
        let server = InThread::start(0, {
            let shared = shared.clone();
            move |listener| http::serve(listener, shared)
        })?;
        Ok(Self { shared, server })
    }

    /// What `SHOAL_PAYMENTS_URL` has to be.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
    }

    /// The next requests are taken like this, one each.
    pub fn next(&self, turns: &[Turn]) {
        self.shared.lock().turns.extend(turns);
    }

    /// All others are taken like this.
    pub fn always(&self, turn: Turn) {
        self.shared.lock().usual = Some(turn);
    }

    /// Lets one answer go that is [`Turn::Held`].
    pub fn go_on(&self) {
        self.shared.let_go.notify_one();
    }

    /// The charges for an order: one per idempotency key.
    #[must_use]
    pub fn charges(&self, reference: Uuid) -> Vec<Charge> {
        self.shared.lock().book.charges(reference)
    }

    /// Whether it was asked to void the order.
    #[must_use]
    pub fn is_void(&self, reference: Uuid) -> bool {
        self.shared.lock().book.is_void(reference)
    }

    /// Requests so far, of any kind.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.lock().book.requests
    }
}

/// Serves on a port of loopback until SIGINT or SIGTERM: the command `lab provider`.
pub fn run(port: u16) -> Result<()> {
    in_foreground(port, |listener| http::serve(listener, Shared::default()))
}

/// `lab provider` as a process, stopped when this is dropped.
#[derive(Debug)]
pub struct ProviderProcess {
    process: Process,
    port: Port,
}

impl ProviderProcess {
    /// Starts the lab's own binary again, as the provider.
    pub fn start(site: &Site, name: &str, port: Port) -> Result<Self> {
        let launch = site.launch_as_lab(name)?.arg("provider");
        let launch = launch.arg("--port").arg(port.number().to_string());
        let mut provider = Self { process: Process::start(launch)?, port };
        let number = provider.port();
        provider.process.wait_until(READY_WITHIN, || accepts_connections(number))?;
        Ok(provider)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, to freeze, kill or restart it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
