//! Answers read byte by byte from a connection of one's own.

use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::Reply;

/// Much longer than any answer takes: what does not answer within it hangs.
pub const HANG: Duration = Duration::from_secs(30);

impl Reply {
    /// Everything up to the end of the connection, as one answer.
    pub async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        timeout(HANG, stream.read_to_end(&mut bytes)).await.expect("a hang").unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("no answer");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HeaderMap = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let body = bytes[end + 4..].to_vec();
        assert_eq!(headers["content-length"], body.len().to_string(), "{head}");
        Self { status, headers, body }
    }
}
