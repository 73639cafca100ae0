//! Live streams: what many of them take in one replica.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::proc::Memory;
use super::stage::Stage;
use super::targets::{Bound, Target};
use crate::api::Api;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::ports::Port;

/// Open at the same time.
const STREAMS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A replica of its own on the measured core, so that nothing else is in its memory.
pub(super) fn run(stage: &Stage<'_>) -> Result<Vec<Target>> {
    let all = (STREAMS + 100).to_string();
    let shoal = ["SHOAL_STREAMS_MAX", "SHOAL_STREAMS_MAX_PER_USER", "SHOAL_MAX_CONNECTIONS_PER_IP"]
        .iter()
        .fold(stage.shoal.clone(), |shoal, name| shoal.with_setting(name, &all))
        .with_setting("SHOAL_MAX_CONNECTIONS", &(STREAMS + 1_000).to_string())
        .on_cores(&stage.cores.subject_list());
    let mut api = Api::start(stage.site, "streams-api", Port::free()?, &shoal)?;
    let mut streams = Vec::with_capacity(STREAMS);
    for number in 0..STREAMS {
        if interrupt::requested() {
            return Err(Error::interrupted());
        }
        let token = &stage.data.tokens[number % stage.data.tokens.len()];
        streams.push(open(api.port(), token)?);
    }
    let memory = Memory::of(api.process().pid())?;
    drop(streams);
    Ok(vec![Target {
        what: "resident memory of a replica with 10,000 open streams",
        bound: Bound::AtMost(300.0),
        value: Some(memory.resident as f64 / f64::from(1 << 20)),
        unit: "MiB",
    }])
}

/// A stream whose head, and first words, have arrived.
fn open(port: u16, token: &str) -> Result<TcpStream> {
    let what = || "open a stream".to_owned();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).cannot(what)?;
    stream.set_read_timeout(Some(PATIENCE)).cannot(what)?;
    let request = format!(
        "GET /v1/events/stream HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).cannot(what)?;
    let mut head = [0; 1_024];
    let read = stream.read(&mut head).cannot(what)?;
    let head = String::from_utf8_lossy(&head[..read]);
    if head.starts_with("HTTP/1.1 200") {
        Ok(stream)
    } else {
        Err(Error::new(format!("a stream was answered: {head}")))
    }
}
