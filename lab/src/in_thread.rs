//! A server inside this process on a thread of its own, or in the foreground as a command.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};

/// Ended when this is dropped, with the connections that are open then.
#[derive(Debug)]
pub(crate) struct InThread {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl InThread {
    /// Listens on a port of loopback, 0 for a free one, and hands the listener to `serve`.
    pub(crate) fn start<F: Future<Output = ()>>(
        port: u16,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.cannot(|| "start the runtime of a server".to_owned())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (announce, announced) = mpsc::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let bound = bind(port).await;
                let (listener, port) = match bound {
                    Ok(bound) => bound,
                    Err(error) => return drop(announce.send(Err(error))),
                };
                if announce.send(Ok(port)).is_ok() {
                    tokio::select! { () = serve(listener) => {}, _ = stopped => {} }
                }
            });
            runtime.shutdown_background();
        });
        let ended = || Error::new("a server ended before it was ready");
        let port = announced.recv().map_err(|_| ended())??;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for InThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves until SIGINT or SIGTERM.
pub(crate) fn in_foreground<F: Future<Output = ()>>(
    port: u16,
    serve: impl FnOnce(TcpListener) -> F,
) -> Result<()> {
    Runtime::new().cannot(|| "start the runtime".to_owned())?.block_on(async {
        let (listener, _) = bind(port).await?;
        let mut terminate =
            signal(SignalKind::terminate()).cannot(|| "listen for signals".to_owned())?;
        tokio::select! {
            () = serve(listener) => {}
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

async fn bind(port: u16) -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.cannot(|| format!("listen on port {port}"))?;
    let address = listener.local_addr().cannot(|| "read a server's address".to_owned())?;
    Ok((listener, address.port()))
}
