//! Background tasks and the two phases of an orderly end: drain, then stop.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the last tasks may take. Together with the drain delay (5 s), the cap (25 s) and what
/// it takes to leave the fleet (3 s) it stays below the grace of 45 s.
pub(in crate::platform) const STOP_WAIT: Duration = Duration::from_secs(5);

/// The tasks of this process, and the word that it is time to end. Cheap to clone.
///
/// Every task of the process is spawned here, so that none is forgotten at shutdown.
#[derive(Clone, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    tracker: TaskTracker,
    /// Readiness says no and answers carry `Connection: close`, while requests are still served.
    draining: CancellationToken,
    /// Loops end. Set once nothing is in flight any more, or the drain cap has passed.
    stopping: CancellationToken,
}

impl Tasks {
    /// Runs `task` on its own; `stop` waits for its end.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns, so that every task is tracked"
    )]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.inner.tracker.track_future(task));
    }

    /// From now on readiness says no.
    pub fn drain(&self) {
        self.inner.draining.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.inner.draining.is_cancelled()
    }

    /// Completes when `drain` is called: what would go on for longer than a request ends then.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.draining.clone().cancelled_owned()
    }

    /// Completes when `stop` is called: what a background loop selects on.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.stopping.clone().cancelled_owned()
    }

    /// Tells the background loops to end and waits for them, but not for ever: what is stuck must
    /// not keep the process beyond the grace that it was given.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.tracker.close();
        if timeout(STOP_WAIT, self.inner.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.inner.tracker.len(), "left behind");
        }
    }
}

/// Completes at the first SIGTERM or SIGINT. A second one ends the process at once, since
/// whoever sends it has waited long enough.
///
/// # Errors
/// The operating system refused to register the handlers.
pub fn signal(tasks: &Tasks) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, received) = tokio::sync::oneshot::channel();
    let stopping = tasks.stopping();
    tasks.spawn(async move {
        let mut first = Some(first);
        let second = async {
            loop {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                match first.take() {
                    Some(first) => drop(first.send(())),
                    None => break,
                }
            }
        };
        tokio::select! {
            () = second => {
                tracing::warn!("second signal: exiting at once");
                std::process::exit(130);
            }
            () = stopping => {}
        }
    });
    Ok(async move {
        let _ = received.await;
    })
}
