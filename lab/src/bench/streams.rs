//! What open streams of events cost: ten thousand clients that read, on one replica.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::proc::Memory;
use super::stage::Stage;
use super::targets::{Bound, Target};
use crate::api::Api;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::ports::Port;
use crate::progress::Progress;

const STREAMS: usize = 10_000;
/// How long the head of an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MEBIBYTE: f64 = 1_048_576.0;

/// Opens the streams one after the other, of a replica that does nothing else.
pub(super) fn run(stage: &Stage<'_>, progress: &Progress) -> Result<Vec<Target>> {
    let step = progress.step("Ten thousand open streams");
    let all = STREAMS.to_string();
    let room = (STREAMS + 100).to_string();
    let shoal = stage.shoal.clone().on_cores(&stage.cores.subject_list());
    let shoal = shoal
        .with_setting("SHOAL_STREAMS_MAX", &all)
        .with_setting("SHOAL_STREAMS_MAX_PER_USER", &all)
        .with_setting("SHOAL_MAX_CONNECTIONS", &room)
        .with_setting("SHOAL_MAX_CONNECTIONS_PER_IP", "0");
    let mut api = Api::start(stage.site, "api-streams", Port::free()?, &shoal)?;
    let port = api.port();
    let mut open = Vec::with_capacity(STREAMS);
    for number in 0..STREAMS {
        if interrupt::requested() {
            return Err(Error::interrupted());
        }
        open.push(begin(port, &stage.data.tokens[number % stage.data.tokens.len()])?);
    }
    for stream in &mut open {
        check(stream)?;
    }
    let memory = Memory::of(api.process().pid())?;
    step.done();
    let target = |what, bound, bytes: f64, unit| Target { what, bound, value: Some(bytes), unit };
    Ok(vec![target(
        "memory of a replica with 10,000 open streams, at its highest",
        Bound::AtMost(300.0),
        memory.peak as f64 / MEBIBYTE,
        "MiB",
    )])
}

/// A stream whose head has come: from there on it hears of events.
fn begin(port: u16, token: &str) -> Result<TcpStream> {
    let what = || "open a stream of events".to_owned();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).cannot(what)?;
    stream.set_read_timeout(Some(PATIENCE)).cannot(what)?;
    let head = format!(
        "GET /v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).cannot(what)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2_048];
    while !answer.windows(6).any(|window| window == b"retry:") {
        let count = stream.read(&mut buffer).cannot(what)?;
        answer.extend_from_slice(&buffer[..count]);
        if count == 0 || !answer.starts_with(b"HTTP/1.1 200") {
            let text = String::from_utf8_lossy(&answer);
            return Err(Error::new(format!("a stream of events was answered: {text}")));
        }
    }
    Ok(stream)
}

/// That it was not closed while the others were opened.
fn check(stream: &mut TcpStream) -> Result<()> {
    stream.set_nonblocking(true).cannot(|| "look at a stream of events".to_owned())?;
    let mut buffer = [0; 2_048];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(Error::new("a stream of events was closed")),
            // A heartbeat.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(Error::new(format!("a stream of events broke: {error}"))),
        }
    }
}
