//! One connection, from its first byte to a close that the client can understand.
//!
//! hyper's builder rather than `axum::serve`, which sets no time-out on headers and waits for
//! the last connection without end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse};
use http::{StatusCode, header};
use http_body_util::BodyExt;
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
use tower::ServiceExt;
use uuid::Uuid;

use super::{client_ip::Peer, error::ApiError};
use crate::platform::context::Context;

/// Larger than what [`super::layers`] accepts, so that a head that is a little too large gets a
/// problem document instead of hyper's bare status.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How long a client may go on sending what was refused before the connection is cut: enough to
/// notice the answer, too short to be worth holding connections with.
const LINGER: Duration = Duration::from_secs(2);

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
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        request.extensions_mut().insert(Peer(peer));
        let (answer, refused) = (router.clone().oneshot(request.map(Body::new)), refused.clone());
        async move {
            let response = answer.await?;
            refused.store(has_body && !response.status().is_success(), Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(READ_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    if let Err(error) = &ended {
        tracing::debug!(%error, %peer, "connection ended");
        // A connection that was only idle is closed without a word: an answer to nothing would
        // be taken for that to the next request.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            let _ = timeout(LINGER, stream.write_all(&head_timeout().await)).await;
        }
    }
    if ended.is_err() || refused.load(Ordering::Relaxed) {
        linger(&mut stream).await;
    }
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

/// 408 for a head that did not arrive in time, written by hand: there was no request to answer.
async fn head_timeout() -> Vec<u8> {
    let request_id = Uuid::now_v7().to_string();
    let context = Arc::new(Context::new(request_id, None, std::time::Instant::now()));
    let request_id = context.request_id.clone();
    let answer = async {
        let detail = "The head of the request took too long to arrive.";
        let error = ApiError::new(StatusCode::REQUEST_TIMEOUT, "head_timeout", detail);
        error.into_response().into_body().collect().await
    };
    let body = context.scope(answer).await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut bytes = format!(
        "HTTP/1.1 {}\r\n{}: application/problem+json\r\n{}: {}\r\n{}: close\r\n\
         x-request-id: {request_id}\r\n\r\n",
        StatusCode::REQUEST_TIMEOUT,
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        body.len(),
        header::CONNECTION,
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}
