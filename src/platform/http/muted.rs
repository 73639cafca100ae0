//! A connection on which hyper's own answers are held back: it says nothing but a status to what
//! is no HTTP, and there is no other way to have it say more.

use std::{
    io::{IoSlice, Result},
    pin::Pin,
    task::{Context, Poll},
};

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub(super) struct Muted {
    stream: TcpStream,
    /// What hyper would have said.
    held_back: Option<StatusCode>,
}

impl Muted {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, held_back: None }
    }

    pub(super) fn into_parts(self) -> (TcpStream, Option<StatusCode>) {
        (self.stream, self.held_back)
    }
}

/// The status of an answer without a body and without a request id. All of ours have the latter,
/// and every refusal of ours has both.
fn bare_refusal(bytes: &[u8]) -> Option<StatusCode> {
    let status = bytes.strip_prefix(b"HTTP/1.1 4")?.get(..2)?;
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    bytes[end..].starts_with(b"\r\nconnection: close\r\ncontent-length: 0\r\n").then_some(())?;
    StatusCode::from_bytes(&[b'4', status[0], status[1]]).ok()
}

impl AsyncRead for Muted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Muted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        if let Some(status) = bare_refusal(bytes) {
            self.held_back = Some(status);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// An answer with a body: none of those that are held back.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if let [only] = parts {
            return self.poll_write(context, only);
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.held_back.is_some() {
            // There is something to say yet.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_back_nothing_of_ours() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                     content-length: 0\r\ndate: now\r\n\r\n";
        assert_eq!(bare_refusal(bare), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        for ours in [
            &b"HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\nconnection: close\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 4",
            b"",
        ] {
            assert_eq!(bare_refusal(ours), None);
        }
    }
}
