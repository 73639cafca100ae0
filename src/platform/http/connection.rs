//! One connection, from its first byte to a close that the client can understand.
//!
//! hyper's builder rather than `axum::serve`, which sets no time-out on headers and waits for
//! the last connection without end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    client_ip::Peer,
    handwritten::{head_timeout, too_many_connections, unreadable, written},
    muted::Muted,
};

/// Larger than what [`super::layers`] accepts, so that a head that is a little too large gets a
/// problem document instead of hyper's bare status.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How long a client may go on sending what was refused before the connection is cut: enough to
/// notice the answer, too short to be worth holding connections with.
const LINGER: Duration = Duration::from_secs(2);

/// In the extensions of a response: a way to cut its connection off. The body of one whose client
/// does not read is not asked for more, and so cannot end by itself.
#[derive(Clone, Default)]
pub struct Cut(Arc<Cuttable>);

#[derive(Default)]
struct Cuttable {
    connection: OnceLock<CancellationToken>,
    is_over: AtomicBool,
}

impl Cut {
    /// Cuts the connection off, if the response is still on its way.
    pub fn now(&self) {
        if !self.0.is_over.load(Ordering::Acquire)
            && let Some(connection) = self.0.connection.get()
        {
            connection.cancel();
        }
    }

    /// The response has ended: the connection may have gone on to another.
    pub fn forget(&self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    header_timeout: Duration,
    closing: CancellationToken,
) {
    // Answers are written in one go; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    // Whether the last request was refused with its body perhaps still on the way.
    let refused = Arc::new(AtomicBool::new(false));
    let cut = CancellationToken::new();
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        request.extensions_mut().insert(Peer(peer));
        // Only a body that is one is worth a box.
        let request = request.map(|body| if has_body { Body::new(body) } else { Body::empty() });
        let (answer, refused) = (router.clone().call(request), refused.clone());
        let cut = &cut;
        async move {
            let response = answer.await?;
            if let Some(Cut(cuttable)) = response.extensions().get() {
                let _ = cuttable.connection.set(cut.clone());
            }
            refused.store(has_body && !response.status().is_success(), Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Muted::new(stream)), service);
    // In this order: whatever happens on the connection would look at the others first.
    let ended = tokio::select! {
        biased;
        ended = &mut connection => Some(ended),
        () = closing.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            tokio::select! {
                biased;
                ended = &mut connection => Some(ended),
                () = cut.cancelled() => None,
            }
        }
        () = cut.cancelled() => None,
    };
    let Some(ended) = ended else { return };
    let parts = connection.into_parts();
    let (mut stream, held_back) = parts.io.into_inner().into_parts();
    if let Err(error) = &ended {
        tracing::debug!(%error, %peer, "connection ended");
        // A connection that was only idle is closed without a word: an answer to nothing would
        // be taken for that to the next request.
        let answer = match held_back {
            Some(status) => Some(unreadable(status)),
            None => (error.is_timeout() && !parts.read_buf.is_empty()).then(head_timeout),
        };
        if let Some(answer) = answer {
            let _ = timeout(LINGER, stream.write_all(&written(answer).await)).await;
        }
    }
    if ended.is_err() || refused.load(Ordering::Relaxed) {
        linger(&mut stream).await;
    }
}

/// Says that there are too many connections, to whoever is still there to read it.
pub(super) async fn refuse(mut stream: TcpStream) {
    let answer = written(too_many_connections()).await;
    let _ = timeout(LINGER, stream.write_all(&answer)).await;
    linger(&mut stream).await;
}

/// Reads on after the answer, for a while. Closing a socket with unread input resets the
/// connection, and the reset can overtake the answer.
async fn linger(stream: &mut TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        copy(stream, &mut sink()).await
    };
    let _ = timeout(LINGER, drain).await;
}
