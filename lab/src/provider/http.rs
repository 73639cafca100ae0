//! HTTP/1.1 by hand: a library would neither answer twice nor keep silent.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::{Shared, Turn};

/// Requests are small.
const LONGEST: u64 = 64 * 1024;

struct Request {
    path: String,
    key: String,
    body: Vec<u8>,
}

pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    loop {
        // A connection that cannot be accepted is the client's trouble.
        if let Ok((connection, _)) = listener.accept().await {
            let shared = shared.clone();
            tokio::spawn(async move {
                // One that breaks is nobody's trouble.
                let _ = converse(connection, &shared).await;
            });
        }
    }
}

/// Answers one request after the other, until the client hangs up.
async fn converse(connection: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    while let Some(request) = read(&mut connection).await? {
        let (turn, answer) = {
            let mut state = shared.lock();
            state.book.requests += 1;
            let turn = state.next_turn();
            let answer = match turn {
                Turn::Fails(_) => Some(Value::Null),
                _ => act(&mut state.book, &request),
            };
            (turn, answer)
        };
        let Some(mut answer) = answer else {
            write(&mut connection, 404, &Value::Null).await?;
            continue;
        };
        let status = match turn {
            Turn::Fails(status) | Turn::DoesAndFails(status) => status,
            _ => 200,
        };
        match turn {
            Turn::Slow(delay) => tokio::time::sleep(delay).await,
            Turn::Held => shared.let_go.notified().await,
            Turn::Mistaken => answer["reference"] = Uuid::now_v7().to_string().into(),
            Turn::Silent => {
                // Until the client hangs up.
                connection.read_u8().await?;
            }
            Turn::Chatty => answer["padding"] = " ".repeat(1024 * 1024).into(),
            Turn::Twice => write(&mut connection, status, &answer).await?,
            Turn::Honest | Turn::Fails(_) | Turn::DoesAndFails(_) => {}
        }
        write(&mut connection, status, &answer).await?;
    }
    Ok(())
}

fn act(book: &mut super::Book, request: &Request) -> Option<Value> {
    let mut path = request.path.trim_start_matches('/').split('/');
    match (path.next(), path.next(), path.next()) {
        (Some("charges"), None, None) => {
            Some(book.charge(&request.key, &serde_json::from_slice(&request.body).ok()?))
        }
        (Some("charges"), Some(reference), Some("void")) => {
            Some(book.void(reference.parse().ok()?))
        }
        _ => None,
    }
}

/// `None` once the client has hung up.
async fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = connection.take(LONGEST);
    let mut line = String::new();
    if head.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut key, mut length) = (String::new(), 0_u64);
    loop {
        line.clear();
        head.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => value.trim().clone_into(&mut key),
            "content-length" => length = value.trim().parse().unwrap_or_default(),
            _ => {}
        }
    }
    let mut body = Vec::new();
    connection.take(length.min(LONGEST)).read_to_end(&mut body).await?;
    Ok(Some(Request { path, key, body }))
}

async fn write(connection: &mut BufReader<TcpStream>, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    // A day, if it is asked too often.
    let patience = if status == 429 { "Retry-After: 86400\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} So be it\r\nContent-Type: application/json\r\n{patience}Content-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    connection.flush().await
}
