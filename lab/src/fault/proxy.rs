//! The proxy: listens, obeys orders, and hands each connection to a task.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};

use super::Fault;
use super::connection::{State, serve};
use crate::error::{Context, Error, Result};
use crate::ports::Port;

/// A TCP proxy on loopback whose faults can be switched at any time. Runs on a thread of its own, which
/// ends with everything on it when this is dropped: open connections are closed then.
///
/// Where the server itself refuses a connection, the proxy has already accepted the client's, and resets it.
#[derive(Debug)]
pub struct FaultProxy {
    port: Port,
    orders: Option<UnboundedSender<Order>>,
    state: watch::Receiver<State>,
    accepted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is to do, and whom to tell that it is done.
#[derive(Debug)]
struct Order {
    what: What,
    done: mpsc::Sender<Result<()>>,
}

#[derive(Debug)]
enum What {
    Set(Fault),
    Reset,
    LeadTo(SocketAddr),
}

impl FaultProxy {
    /// Starts one on a free port, before the server on this port of loopback.
    pub fn before(server_port: u16) -> Result<Self> {
        Self::start(Port::free()?, SocketAddr::from((Ipv4Addr::LOCALHOST, server_port)))
    }

    /// Starts one on this port of loopback, before a server that may be started later.
    pub fn start(port: Port, upstream: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .cannot(|| "start a fault proxy".to_owned())?;
        let (orders, inbox) = unbounded_channel();
        let (sender, state) = watch::channel(State { fault: Fault::Down, resets: 0 });
        let accepted = Arc::default();
        let mut listening = Listening {
            port: port.number(),
            upstream,
            listener: None,
            connections: JoinSet::new(),
            state: sender,
            accepted: Arc::clone(&accepted),
        };
        let thread = thread::spawn(move || runtime.block_on(listening.obey(inbox)));
        let proxy = Self { port, orders: Some(orders), state, accepted, thread: Some(thread) };
        proxy.set(Fault::Pass)?;
        Ok(proxy)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What is wrong at present.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.state.borrow().fault
    }

    /// How many connections it has accepted since it was started.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// From now on this is wrong, and what was before is not. When it returns, connections are refused
    /// ([`Fault::Down`]) or accepted (all others).
    pub fn set(&self, fault: Fault) -> Result<()> {
        self.order(What::Set(fault))
    }

    /// Heals everything.
    pub fn clear(&self) -> Result<()> {
        self.set(Fault::Pass)
    }

    /// Resets every open connection on both sides, as a firewall that has lost its memory does. New ones
    /// fare as before.
    pub fn reset(&self) -> Result<()> {
        self.order(What::Reset)
    }

    /// Leads new connections to another server; open ones stay where they are.
    pub fn lead_to(&self, upstream: SocketAddr) -> Result<()> {
        self.order(What::LeadTo(upstream))
    }

    fn order(&self, what: What) -> Result<()> {
        let ended = || Error::new("the fault proxy's thread has ended");
        let (done, outcome) = mpsc::channel();
        let orders = self.orders.as_ref().ok_or_else(ended)?;
        orders.send(Order { what, done }).map_err(|_| ended())?;
        outcome.recv().map_err(|_| ended())?
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Listening {
    port: u16,
    upstream: SocketAddr,
    /// `None` while connections are to be refused: whoever listens accepts.
    listener: Option<TcpListener>,
    connections: JoinSet<()>,
    state: watch::Sender<State>,
    accepted: Arc<AtomicU64>,
}

impl Listening {
    async fn obey(&mut self, mut inbox: UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                order = inbox.recv() => {
                    let Some(Order { what, done }) = order else { return };
                    // Who gave the order may have given up waiting.
                    let _ = done.send(self.carry_out(what).await);
                }
                accepted = accept(self.listener.as_ref()) => self.hand_over(accepted),
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn carry_out(&mut self, what: What) -> Result<()> {
        match what {
            What::LeadTo(upstream) => self.upstream = upstream,
            What::Set(Fault::Down) => {
                self.listener = None;
                self.state.send_modify(|state| state.fault = Fault::Down);
                self.connections.shutdown().await;
            }
            What::Set(fault) => {
                if self.listener.is_none() {
                    let address = (Ipv4Addr::LOCALHOST, self.port);
                    let listener = TcpListener::bind(address).await;
                    self.listener =
                        Some(listener.cannot(|| format!("listen on port {}", self.port))?);
                }
                self.state.send_modify(|state| state.fault = fault);
            }
            What::Reset => {
                self.accept_backlog().await;
                self.state.send_modify(|state| state.resets += 1);
                while self.connections.join_next().await.is_some() {}
            }
        }
        Ok(())
    }

    /// Takes the connections that the kernel has completed: to their clients they are open.
    async fn accept_backlog(&mut self) {
        // Yielding lets the runtime ask the kernel what is ready.
        yield_now().await;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = accept(self.listener.as_ref()) => accepted,
                () = std::future::ready(()) => return,
            };
            self.hand_over(accepted);
        }
    }

    fn hand_over(&mut self, client: TcpStream) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let (state, resets) = (self.state.subscribe(), self.state.borrow().resets);
        self.connections.spawn(serve(client, self.upstream, state, resets));
    }
}

/// The next client; never ends without a listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            // The client's trouble, or too many open files, which passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
