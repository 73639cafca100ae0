//! As much of SMTP (RFC 5321) as a client needs to hand over a message.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::{Refusal, Step};

/// A line, and so a message, may not be longer: clients are tests.
const LONGEST: u64 = 1024 * 1024;

#[derive(Clone)]
pub(super) struct Sink {
    pub(super) dir: PathBuf,
    pub(super) refusal: Refusal,
}

pub(super) async fn serve(listener: TcpListener, sink: Sink) {
    loop {
        // A connection that cannot be accepted is the client's trouble.
        if let Ok((connection, _)) = listener.accept().await {
            let sink = sink.clone();
            tokio::spawn(async move {
                // One that breaks is nobody's trouble.
                let _ = converse(connection, &sink).await;
            });
        }
    }
}

async fn converse(connection: TcpStream, sink: &Sink) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    if let Some(code) = sink.refusal.code(Step::Greeting) {
        return say(&mut connection, &format!("{code} not for you")).await;
    }
    say(&mut connection, "220 shoal-lab").await?;
    while let Some(line) = hear(&mut connection).await? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" => "250-shoal-lab\r\n250-AUTH PLAIN\r\n250 8BITMIME".to_owned(),
            "AUTH" => match sink.refusal.code(Step::LogIn) {
                None => "235 OK".to_owned(),
                Some(code) => format!("{code} who are you"),
            },
            "HELO" | "MAIL" | "RSET" | "NOOP" => "250 OK".to_owned(),
            "RCPT" => match sink.refusal.code(Step::Recipient) {
                None => "250 OK".to_owned(),
                // As real ones do, with the address in it.
                Some(code) => format!("{code} not for {line}"),
            },
            "DATA" => {
                say(&mut connection, "354 go on").await?;
                let Some(message) = take(&mut connection).await? else { return Ok(()) };
                match sink.refusal.code(Step::Text) {
                    None => {
                        keep(sink, &message)?;
                        "250 OK".to_owned()
                    }
                    Some(code) => format!("{code} I do not like it"),
                }
            }
            "QUIT" => return say(&mut connection, "221 OK").await,
            _ => "502 not here".to_owned(),
        };
        say(&mut connection, &answer).await?;
    }
    Ok(())
}

/// The message up to the lone dot; `None` if the client hangs up before it.
async fn take(connection: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut message = String::new();
    while let Some(line) = hear(connection).await? {
        if line == "." {
            return Ok(Some(message));
        }
        message.push_str(line.strip_prefix('.').unwrap_or(&line));
        message.push('\n');
        if message.len() as u64 > LONGEST {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Under a name that begins with the time, and whole or not at all.
fn keep(sink: &Sink, message: &str) -> io::Result<()> {
    let path = sink.dir.join(format!("{}.eml", Uuid::now_v7()));
    let unfinished = path.with_extension("tmp");
    std::fs::write(&unfinished, message)?;
    std::fs::rename(unfinished, path)
}

async fn hear(connection: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if connection.take(LONGEST).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

async fn say(connection: &mut BufReader<TcpStream>, line: &str) -> io::Result<()> {
    connection.write_all(format!("{line}\r\n").as_bytes()).await?;
    connection.flush().await
}
