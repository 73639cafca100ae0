//! A mail server that delivers nothing: it keeps what it is given, one file a message, and shows it.
//!
//! - [`smtp`]: what it says.
//! - [`message`]: what it keeps.

mod message;
mod smtp;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use message::Message;

use self::smtp::Sink;
use crate::error::{Context, Result};
use crate::in_thread::{InThread, in_foreground};
use crate::net::accepts_connections;
use crate::ports::Port;
use crate::process::Process;
use crate::site::{Site, make_dir};

const READY_WITHIN: Duration = Duration::from_secs(10);

/// How far a client has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has connected.
    Greeting,
    /// It has given its password.
    LogIn,
    /// It has named a recipient.
    Recipient,
    /// It has sent the text.
    Text,
}

/// Where clients are refused, and with which code.
#[derive(Clone, Default)]
struct Refusal(Arc<Mutex<Option<(Step, u16)>>>);

impl Refusal {
    fn set(&self, refusal: Option<(Step, u16)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    fn code(&self, at: Step) -> Option<u16> {
        let refusal = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.filter(|(step, _)| *step == at).map(|(_, code)| code)
    }
}

/// A mail server inside this process, for a test; ended when this is dropped, and its mail stays.
pub struct MailSink {
    dir: PathBuf,
    refusal: Refusal,
    server: InThread,
}

impl MailSink {
    /// Listens on a port of loopback, 0 for a free one, and keeps mail in `dir`.
    pub fn start(dir: &Path, port: u16) -> Result<Self> {
        make_dir(dir)?;
        let refusal = Refusal::default();
        let sink = Sink { dir: dir.to_owned(), refusal: refusal.clone() };
        let server = InThread::start(port, move |listener| smtp::serve(listener, sink))?;
        Ok(Self { dir: dir.to_owned(), refusal, server })
    }

    /// What `SHOAL_SMTP_URL` has to be.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.server.port())
    }

    /// What `SHOAL_SMTP_URL` has to be to log in, with whatever password.
    #[must_use]
    pub fn url_with_password(&self) -> String {
        format!("smtp://shop:secret@127.0.0.1:{}", self.server.port())
    }

    /// Refuses everybody with this code from now on when they have got so far.
    pub fn refuse(&self, at: Step, code: u16) {
        self.refusal.set(Some((at, code)));
    }

    /// Refuses nobody any more.
    pub fn relent(&self) {
        self.refusal.set(None);
    }

    /// Everything so far, oldest first.
    pub fn messages(&self) -> Result<Vec<Message>> {
        messages(&self.dir)
    }
}

/// The messages that a sink has kept in `dir`, oldest first.
pub fn messages(dir: &Path) -> Result<Vec<Message>> {
    let entries = std::fs::read_dir(dir).cannot(|| format!("read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .collect();
    // Names begin with the time.
    paths.sort();
    paths.iter().map(|path| Message::read(path)).collect()
}

/// Where the sink of a site keeps mail.
pub(crate) fn dir(site: &Path) -> PathBuf {
    site.join("mail")
}

/// Serves on a port of loopback until SIGINT or SIGTERM: the command `lab mail-sink`.
pub fn run(port: u16, dir: &Path) -> Result<()> {
    make_dir(dir)?;
    let sink = Sink { dir: dir.to_owned(), refusal: Refusal::default() };
    in_foreground(port, |listener| smtp::serve(listener, sink))
}

/// `lab mail-sink` as a process, stopped when this is dropped.
#[derive(Debug)]
pub struct MailProcess {
    process: Process,
    port: Port,
}

impl MailProcess {
    /// Starts the lab's own binary again, as the mail server.
    pub fn start(site: &Site, name: &str, port: Port) -> Result<Self> {
        let dir = dir(site.dir());
        make_dir(&dir)?;
        let launch = site.launch_as_lab(name)?.arg("mail-sink");
        let launch = launch.arg("--port").arg(port.number().to_string()).arg("--dir").arg(dir);
        let mut sink = Self { process: Process::start(launch)?, port };
        let number = sink.port();
        sink.process.wait_until(READY_WITHIN, || accepts_connections(number))?;
        Ok(sink)
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
