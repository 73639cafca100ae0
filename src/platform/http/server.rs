//! Accepts connections, and ends without cutting any request short.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection,
    connections::{self, Connections, Counts},
};
use crate::platform::{metrics::Metrics, shutdown::Tasks};

/// How long to leave `accept` alone after it failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many refused connections are told so at the same time. Others are closed without a word:
/// telling takes a descriptor and some memory, which is what there is too little of.
const TOLD_AT_ONCE: usize = 64;

#[derive(Clone)]
pub struct Config {
    /// For the head of a request, from its first byte on an idle connection.
    pub header_timeout: Duration,
    pub connections: connections::Config,
    /// How long readiness says no before the listener closes: time for balancers to notice.
    pub drain_delay: Duration,
    /// How long requests in flight may take after that.
    pub drain_cap: Duration,
}

/// Serves `router` on every listener until `shutdown` completes, then drains: readiness says no
/// and every answer closes its connection, then the listeners close, then what is in flight ends.
///
/// # Errors
/// A metric is registered twice.
pub async fn serve(
    listeners: Vec<(TcpListener, Router)>,
    config: &Config,
    metrics: &Metrics,
    tasks: &Tasks,
    shutdown: impl Future<Output = ()>,
) -> prometheus::Result<()> {
    let counts = Counts::new(metrics)?;
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let cutting = CancellationToken::new();
    let accepting = CancellationToken::new();
    for (listener, router) in listeners {
        let acceptor = Acceptor {
            router,
            header_timeout: config.header_timeout,
            open: Arc::new(Connections::new(&config.connections, counts.clone())),
            refusals: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            connections: connections.clone(),
            closing: closing.clone(),
            cutting: cutting.clone(),
        };
        let accepting = accepting.clone();
        let tracker = connections.clone();
        tasks.spawn(tracker.track_future(async move {
            accepting.run_until_cancelled(acceptor.accept(&listener)).await;
            acceptor.accept_backlog(&listener);
        }));
    }
    shutdown.await;
    tasks.drain();
    tracing::info!(delay_ms = config.drain_delay.as_millis(), "draining");
    sleep(config.drain_delay).await;
    accepting.cancel();
    closing.cancel();
    connections.close();
    tracing::info!(connections = connections.len(), "no longer accepting");
    if timeout(config.drain_cap, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "drain cap reached: cutting them off");
        cutting.cancel();
        connections.wait().await;
    }
    Ok(())
}

struct Acceptor {
    router: Router,
    header_timeout: Duration,
    open: Arc<Connections>,
    refusals: Arc<Semaphore>,
    connections: TaskTracker,
    /// Idle connections end at once, busy ones after their request.
    closing: CancellationToken,
    /// Whatever is left ends where it stands.
    cutting: CancellationToken,
}

impl Acceptor {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.spawn(stream, peer),
                Err(error) => {
                    // Out of descriptors or memory: not a reason to end, nor to spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes the connections that the kernel has completed but nobody accepted yet: closing the
    /// listener would reset them, with requests on their way.
    fn accept_backlog(&self, listener: &TcpListener) {
        use futures::FutureExt;
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
            self.spawn(stream, peer);
        }
    }

    fn spawn(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(open) = self.open.open(peer.ip()) else {
            if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
                self.track(async move {
                    connection::refuse(stream).await;
                    drop(permit);
                });
            }
            return;
        };
        let connection = connection::serve(
            stream,
            peer,
            self.router.clone(),
            self.header_timeout,
            self.closing.clone(),
        );
        self.track(async move {
            connection.await;
            drop(open);
        });
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "connections have a tracker of their own: they end before the tasks do"
    )]
    fn track(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let connection = self.cutting.clone().run_until_cancelled_owned(connection);
        tokio::spawn(self.connections.track_future(connection));
    }
}
