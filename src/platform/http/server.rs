//! Accepts connections, and ends without cutting any request short.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
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
    let acceptors = TaskTracker::new();
    let closing = CancellationToken::new();
    let cutting = CancellationToken::new();
    let accepting = CancellationToken::new();
    for (listener, router) in listeners {
        let mut acceptor = Acceptor {
            router,
            header_timeout: config.header_timeout,
            open: Arc::new(Connections::new(&config.connections, counts.clone())),
            refusals: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            running: JoinSet::new(),
            closing: closing.clone(),
        };
        let (accepting, cutting) = (accepting.clone(), cutting.clone());
        tasks.spawn(acceptors.track_future(async move {
            accepting.run_until_cancelled(acceptor.accept(&listener)).await;
            acceptor.accept_backlog(&listener);
            drop(listener);
            cutting.run_until_cancelled(acceptor.finish()).await;
            acceptor.running.shutdown().await;
        }));
    }
    shutdown.await;
    tasks.drain();
    tracing::info!(delay_ms = config.drain_delay.as_millis(), "draining");
    sleep(config.drain_delay).await;
    accepting.cancel();
    closing.cancel();
    acceptors.close();
    tracing::info!(connections = counts.open(), "no longer accepting");
    if timeout(config.drain_cap, acceptors.wait()).await.is_err() {
        tracing::warn!(connections = counts.open(), "drain cap reached: cutting them off");
        cutting.cancel();
        acceptors.wait().await;
    }
    Ok(())
}

struct Acceptor {
    router: Router,
    header_timeout: Duration,
    open: Arc<Connections>,
    refusals: Arc<Semaphore>,
    /// Connections. As a set they can be cut off, which costs them nothing while they last: a
    /// token would be looked at with every byte that comes.
    running: JoinSet<()>,
    /// Idle connections end at once, busy ones after their request.
    closing: CancellationToken,
}

impl Acceptor {
    async fn accept(&mut self, listener: &TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // One that has ended is let go of.
                Some(_) = self.running.join_next() => continue,
            };
            match accepted {
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
    fn accept_backlog(&mut self, listener: &TcpListener) {
        use futures::FutureExt;
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
            self.spawn(stream, peer);
        }
    }

    fn spawn(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(open) = self.open.open(peer.ip()) else {
            if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
                self.running.spawn(async move {
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
        self.running.spawn(async move {
            connection.await;
            drop(open);
        });
    }

    /// Waits for what is left.
    async fn finish(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}
