//! Asks servers on loopback whether they are there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// On loopback an answer that takes this long is as good as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether somebody listens on the port.
pub(crate) fn accepts_connections(port: u16) -> bool {
    connect(port).is_some()
}

/// Sends a request and answers whether the reply begins with `expected`.
pub(crate) fn replies(port: u16, request: &str, expected: &str) -> bool {
    let Some(mut connection) = connect(port) else {
        return false;
    };
    let mut reply = vec![0; expected.len()];
    let exchange =
        connection.write_all(request.as_bytes()).and_then(|()| connection.read_exact(&mut reply));
    exchange.is_ok() && reply == expected.as_bytes()
}

/// Sends requests of which the last makes the server hang up, and answers all that it said.
pub(crate) fn converse(port: u16, requests: &str) -> Option<String> {
    let mut connection = connect(port)?;
    connection.write_all(requests.as_bytes()).ok()?;
    let mut replies = String::new();
    connection.read_to_string(&mut replies).ok()?;
    Some(replies)
}

/// Posts JSON and answers the status; `None` if there was no HTTP answer.
pub(crate) fn post_json(port: u16, path: &str, body: &str) -> Option<u16> {
    let mut connection = connect(port)?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).ok()?;
    // "HTTP/1.1 201"
    let mut start = [0; 12];
    connection.read_exact(&mut start).ok()?;
    std::str::from_utf8(&start).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

fn connect(port: u16) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connection = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).ok()?;
    connection.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(connection)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::replies;

    #[test]
    fn only_the_expected_reply_counts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let server = thread::spawn(move || {
            for connection in listener.incoming().take(2) {
                let mut connection = connection.expect("a client connects");
                connection.read_exact(&mut [0; 4]).expect("it sends four bytes");
                connection.write_all(b"+PONG").expect("it waits for the reply");
            }
        });
        assert!(replies(port, "PING", "+PONG"));
        assert!(!replies(port, "PING", "-LOADING"));
        server.join().expect("the server ends");
    }
}
