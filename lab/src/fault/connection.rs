//! One connection through a proxy: two ways, each with its queue of what is under way.

use std::net::SocketAddr;
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::{Fault, Way};

/// As much as is read at once.
const CHUNK: usize = 64 * 1024;
/// Bytes under way in one direction, at most: with 2 s of latency still 512 KiB/s. More than a chunk, or
/// one could never leave.
const UNDER_WAY: usize = 1024 * 1024;

/// What every connection of a proxy looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) fault: Fault,
    /// How often all connections were reset.
    pub(super) resets: u64,
}

/// The connection is of no use any more: both its sides are to be reset.
#[derive(Debug)]
struct Broken;

/// What one read has given.
struct Parcel<'a> {
    content: Content,
    read_at: Instant,
    /// Gives its room back when the parcel is gone.
    _room: Option<SemaphorePermit<'a>>,
}

enum Content {
    Bytes(Vec<u8>),
    /// Nothing more will come.
    End,
    /// The sender has reset the connection.
    Reset,
}

/// Carries bytes both ways until both sides have ended, or one is reset, or all are told to be: until there
/// were more than this many resets. How many there were when the client was accepted is for the caller to
/// know, for this may begin to run after the next.
pub(super) async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    state: watch::Receiver<State>,
    resets: u64,
) {
    let mut told = state.clone();
    let mut reset = pin!(told.wait_for(|now| now.resets > resets));
    let connected = tokio::select! {
        connected = TcpStream::connect(upstream) => connected.ok(),
        _ = &mut reset => None,
    };
    let Some(mut server) = connected else {
        // It is too late to refuse the client, who has been accepted.
        let _ = client.set_zero_linger();
        return;
    };
    let outcome = tokio::select! {
        outcome = carry(&mut client, &mut server, &state) => outcome,
        _ = &mut reset => Err(Broken),
    };
    if outcome.is_err() {
        for side in [&client, &server] {
            // Without lingering, closing resets.
            let _ = side.set_zero_linger();
        }
    }
}

async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    state: &watch::Receiver<State>,
) -> Result<(), Broken> {
    for side in [&*client, &*server] {
        // Requests are small, and waiting to fill a packet would be a fault of its own.
        side.set_nodelay(true).map_err(|_| Broken)?;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    tokio::try_join!(
        pass_on(from_client, to_server, Way::There, state.clone()),
        pass_on(from_server, to_client, Way::Back, state.clone()),
    )
    .map(drop)
}

async fn pass_on(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    way: Way,
    state: watch::Receiver<State>,
) -> Result<(), Broken> {
    let room = Semaphore::new(UNDER_WAY);
    let (queue, queued) = unbounded_channel();
    tokio::try_join!(receive(from, &room, queue), deliver(queued, to, way, state)).map(drop)
}

/// Reads whatever comes, as long as there is room for it.
async fn receive<'a>(
    mut from: ReadHalf<'_>,
    room: &'a Semaphore,
    queue: UnboundedSender<Parcel<'a>>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let (content, size) = match from.read(&mut buffer).await {
            Ok(0) => (Content::End, 0),
            Ok(read) => (Content::Bytes(buffer[..read].to_vec()), read),
            Err(_) => (Content::Reset, 0),
        };
        let read_at = Instant::now();
        let is_last = size == 0;
        let size = u32::try_from(size).map_err(|_| Broken)?;
        let room = room.acquire_many(size).await.ok();
        let parcel = Parcel { content, read_at, _room: room };
        if queue.send(parcel).is_err() || is_last {
            return Ok(());
        }
    }
}

/// Writes each parcel when it is due.
async fn deliver(
    mut queue: UnboundedReceiver<Parcel<'_>>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut state: watch::Receiver<State>,
) -> Result<(), Broken> {
    while let Some(parcel) = queue.recv().await {
        let arrives = arrives(&mut state, way, parcel.read_at).await;
        match parcel.content {
            Content::Bytes(bytes) if arrives => to.write_all(&bytes).await.map_err(|_| Broken)?,
            Content::Bytes(_) => return swallow(queue, state, way).await,
            // An end that gets lost is sent again until it arrives.
            Content::End => {
                heals(&mut state, way).await;
                to.shutdown().await.map_err(|_| Broken)?;
            }
            Content::Reset => {
                heals(&mut state, way).await;
                return Err(Broken);
            }
        }
    }
    Ok(())
}

/// Waits until something read at this time is due. False if it gets lost.
async fn arrives(state: &mut watch::Receiver<State>, way: Way, read_at: Instant) -> bool {
    loop {
        let delay = state.borrow_and_update().fault.delay(way);
        match delay {
            None => return false,
            Some(delay) if delay.is_zero() => return true,
            Some(delay) => tokio::select! {
                () = sleep_until(read_at + delay) => return true,
                // The fault is another one now. Without its sender the whole proxy ends.
                _ = state.changed() => {}
            },
        }
    }
}

/// Loses everything until the fault is healed.
async fn swallow(
    mut queue: UnboundedReceiver<Parcel<'_>>,
    mut state: watch::Receiver<State>,
    way: Way,
) -> Result<(), Broken> {
    let mut healed = pin!(heals(&mut state, way));
    loop {
        tokio::select! {
            () = &mut healed => return Err(Broken),
            Some(_) = queue.recv() => {}
        }
    }
}

async fn heals(state: &mut watch::Receiver<State>, way: Way) {
    // It fails when the proxy ends, and the connection with it.
    let _ = state.wait_for(|now| now.fault.delay(way).is_some()).await;
}
