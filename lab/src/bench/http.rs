//! A few requests to prepare what is measured, one connection each.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::error::{Context, Error, Result};

/// Longer than any deadline of the service.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    exchange(port, "GET", path, headers, b"")
}

pub(crate) fn put(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
    exchange(port, "PUT", path, headers, body)
}

pub(crate) fn post(port: u16, path: &str, body: &str) -> Result<Answer> {
    post_with(port, path, &[], body)
}

/// A POST of JSON with further headers.
pub(crate) fn post_with(
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let mut headers = headers.to_vec();
    headers.push(("Content-Type", "application/json"));
    exchange(port, "POST", path, &headers, body.as_bytes())
}

/// A GET whose answer has to be 200.
pub(crate) fn body_of(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Vec<u8>> {
    let answer = get(port, path, headers)?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(Error::new(format!("GET {path} answered {status}: {}", answer.text()))),
    }
}

fn exchange(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let what = || format!("{method} {path} on port {port}");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).cannot(what)?;
    stream.set_read_timeout(Some(PATIENCE)).cannot(what)?;
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(request.as_bytes()).cannot(what)?;
    stream.write_all(body).cannot(what)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).cannot(what)?;
    parse(&bytes).ok_or_else(|| Error::new(format!("cannot {}: no HTTP came back", what())))
}

/// A whole answer of a connection that was closed behind it. The service announces every length.
pub(super) fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, body: bytes[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn head_and_body_are_parted() {
        let answer = parse(b"HTTP/1.1 201 Created\r\nA: b\r\n\r\n{}").expect("it is an answer");
        assert_eq!((answer.status, answer.body.as_slice()), (201, b"{}".as_slice()));
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_none());
    }
}
