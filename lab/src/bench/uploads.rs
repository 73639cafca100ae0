//! Uploads: what large pictures cost one replica, streamed through it and sent past it to S3.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{self, Answer};
use super::proc::{self, Memory};
use super::stage::Stage;
use super::targets::{Bound, Target};
use crate::api::Api;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::picture;
use crate::ports::Port;

/// On their way at the same time.
const PARALLEL: usize = 20;
/// Of each kind.
const UPLOADS: usize = 100;
/// Of a picture whose bytes are just below the limit of 10 MB.
const EDGE: u32 = 1_860;
/// A client comes back this long after it was told to: the time that `Retry-After` says would leave the
/// replica idle.
const COME_BACK: Duration = Duration::from_millis(50);

const MIB: f64 = (1 << 20) as f64;

/// A replica of its own on the measured core, so that nothing else is in its memory.
pub(super) fn run(stage: &Stage<'_>) -> Result<Vec<Target>> {
    let shoal = stage
        .shoal
        .clone()
        .with_setting("SHOAL_UPLOAD_QUOTA_BYTES", &(1_u64 << 40).to_string())
        .with_setting("SHOAL_UPLOAD_QUOTA_FILES", "1000000")
        .on_cores(&stage.cores.subject_list());
    let mut api = Api::start(stage.site, "uploads-api", Port::free()?, &shoal)?;
    let (port, pid) = (api.port(), api.process().pid());
    let picture = picture::png(EDGE, 1);
    let sender = |number: usize| Sender {
        port,
        token: format!("Bearer {}", stage.data.tokens[number]),
        picture: &picture,
    };
    // Connections are made, plans are found.
    sender(0).through()?;
    sender(0).past()?;

    let before = Memory::of(pid)?;
    let streamed = measure(pid, |number| sender(number).through())?;
    let after = Memory::of(pid)?;
    let past = measure(pid, |number| sender(number).past())?;

    let megabytes = picture.len() as f64 / 1e6;
    let target = |what, bound, value, unit| Target { what, bound, value: Some(value), unit };
    let to_know = |what, value, unit| target(what, Bound::ToKnow, value, unit);
    Ok(vec![
        to_know("10 MB pictures through one replica on one core", streamed.rate, "/s"),
        to_know("the same in bytes", streamed.rate * megabytes, "MB/s"),
        to_know("the same: CPU per megabyte", streamed.cpu_ms / megabytes, "ms"),
        to_know("10 MB pictures past it, to S3 and completed", past.rate, "/s"),
        to_know("the same in bytes", past.rate * megabytes, "MB/s"),
        to_know("the same: CPU per megabyte", past.cpu_ms / megabytes, "ms"),
        to_know("resident memory before 20 of them at once", before.resident as f64 / MIB, "MiB"),
        target(
            "20 streamed uploads of 10 MB at once: resident memory on top of that, at most",
            Bound::AtMost(64.0),
            (after.peak - before.resident) as f64 / MIB,
            "MiB",
        ),
    ])
}

/// What many uploads have come to.
struct Figures {
    /// Uploads a second.
    rate: f64,
    /// Of the replica, for each of them.
    cpu_ms: f64,
}

/// Each of [`PARALLEL`] clients sends one after the other, until all are there.
fn measure(pid: u32, send: impl Fn(usize) -> Result<()> + Sync) -> Result<Figures> {
    let next = AtomicUsize::new(0);
    let (began, cpu) = (Instant::now(), proc::cpu_time(pid)?);
    let client = |number: usize| {
        while next.fetch_add(1, Ordering::Relaxed) < UPLOADS {
            if interrupt::requested() {
                return Err(Error::interrupted());
            }
            send(number)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..PARALLEL).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().try_for_each(|client| {
            client.join().unwrap_or_else(|_| Err(Error::new("a client of the bench panicked")))
        })
    })?;
    let (took, used) = (began.elapsed(), proc::cpu_time(pid)?.saturating_sub(cpu));
    Ok(Figures {
        rate: UPLOADS as f64 / took.as_secs_f64(),
        cpu_ms: used.as_secs_f64() * 1e3 / UPLOADS as f64,
    })
}

/// A customer with a picture.
struct Sender<'a> {
    port: u16,
    token: String,
    picture: &'a [u8],
}

impl Sender<'_> {
    /// Through the API.
    fn through(&self) -> Result<()> {
        let headers = [("Authorization", self.token.as_str()), ("Content-Type", "image/png")];
        self.until_taken(200, || {
            http::put(self.port, "/v1/users/me/avatar", &headers, self.picture)
        })?;
        Ok(())
    }

    /// To S3, as the API says.
    fn past(&self) -> Result<()> {
        let headers = [("Authorization", self.token.as_str())];
        let size = self.picture.len();
        let body = format!(r#"{{"content_type":"image/png","size":{size},"purpose":"document"}}"#);
        let upload =
            self.until_taken(201, || http::post_with(self.port, "/v1/uploads", &headers, &body))?;
        let upload: Value = serde_json::from_slice(&upload.body).unwrap_or_default();
        let (port, path) = split(upload["upload"]["url"].as_str().unwrap_or_default())?;
        let signed = upload["upload"]["headers"].as_object().cloned().unwrap_or_default();
        // The client announces the length by itself.
        let signed: Vec<(&str, &str)> = signed
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()))
            .collect();
        self.until_taken(200, || http::put(port, &path, &signed, self.picture))?;
        let path = format!("/v1/uploads/{}/complete", upload["id"].as_str().unwrap_or_default());
        self.until_taken(200, || http::post_with(self.port, &path, &headers, "{}"))?;
        Ok(())
    }

    /// Comes back for as long as it is told to.
    fn until_taken(&self, status: u16, send: impl Fn() -> Result<Answer>) -> Result<Answer> {
        loop {
            let answer = send()?;
            match answer.status {
                503 if !interrupt::requested() => thread::sleep(COME_BACK),
                found if found == status => return Ok(answer),
                found => {
                    let text = answer.text();
                    return Err(Error::new(format!("an upload was answered {found}: {text}")));
                }
            }
        }
    }
}

/// The port of an address on loopback, and what comes behind it.
fn split(url: &str) -> Result<(u16, String)> {
    let parts = url.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.split_once('/'));
    let (port, path) = parts.ok_or_else(|| Error::new(format!("`{url}` is not on loopback")))?;
    let port = port.parse().map_err(|_| Error::new(format!("`{url}` has no port")))?;
    Ok((port, format!("/{path}")))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn an_address_is_a_port_and_a_path() {
        let parts = split("http://127.0.0.1:9000/shoal/incoming/a?b=c").expect("it is one");
        assert_eq!(parts, (9000, "/shoal/incoming/a?b=c".to_owned()));
        assert!(split("https://elsewhere.test/a").is_err());
    }
}
