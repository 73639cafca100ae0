//! Requests to addresses that somebody else has given us.
//!
//! Such an address may be meant to reach what only this process can: the network it is in, or the
//! cloud's metadata. Nothing but the internet is connected to, redirects are not followed, no proxy
//! is asked, and the answer is read no further than a bound.

mod address;
mod resolver;

use std::{
    error::Error as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, dns::Resolve, redirect};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::time::timeout;
use url::{Host, Url};

pub use self::resolver::SystemResolver;
use self::{address::is_global, resolver::GlobalOnly};
use super::context;

/// Bytes of an answer that are read, so that its connection can be used again. Beyond, it is
/// closed.
const MAX_ANSWER: usize = 16 * 1024;

/// How long the rest of an answer may take whose status is known already.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Shorter than servers usually keep a connection that nothing happens on.
const IDLE: Duration = Duration::from_secs(50);

/// Idle connections to one host.
const IDLE_PER_HOST: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub reach: Reach,
    /// For one request, from the name's resolution to the answer.
    pub timeout: Duration,
}

/// What may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The internet, by HTTPS.
    Internet,
    /// Everything, also by plain HTTP: for development.
    Everything,
}

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("must be an `https` address")]
    NotHttps,
    #[error("must not contain a user name, a password or a fragment")]
    NotPlain,
    #[error("must be on the internet")]
    NotGlobal,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the address {0}")]
    Refused(#[from] Refusal),
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Unreachable(String),
}

/// What there was of an answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// How long to wait, as it says itself.
    pub retry_after: Option<Duration>,
    /// From the beginning of the request to the status.
    pub took: Duration,
}

/// Keeps connections alive. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    client: Client,
    config: Config,
}

impl HttpClient {
    /// `resolver` turns names into addresses; what it says is not trusted.
    ///
    /// # Errors
    /// The TLS configuration is unusable.
    pub fn new(config: Config, resolver: Arc<dyn Resolve>) -> reqwest::Result<Self> {
        let builder = Client::builder()
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST);
        let builder = match config.reach {
            Reach::Internet => {
                builder.https_only(true).dns_resolver(Arc::new(GlobalOnly(resolver)))
            }
            Reach::Everything => builder,
        };
        Ok(Self { client: builder.build()?, config })
    }

    /// Whether requests may be sent to an address, as far as that can be told without asking for
    /// its name.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        let is_plain = url.username().is_empty() && url.password().is_none();
        if !is_plain || url.fragment().is_some() {
            return Err(Refusal::NotPlain);
        }
        match (self.config.reach, url.scheme()) {
            (Reach::Everything, "http" | "https") => return Ok(()),
            (Reach::Internet, "https") => {}
            _ => return Err(Refusal::NotHttps),
        }
        // `Url` has turned every spelling of an address into an address.
        let is_global = match url.host() {
            Some(Host::Ipv4(address)) => is_global(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => is_global(IpAddr::V6(address)),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                name != "localhost" && !name.ends_with(".localhost")
            }
            None => false,
        };
        if is_global { Ok(()) } else { Err(Refusal::NotGlobal) }
    }

    /// # Errors
    /// The address is refused, or there was no answer within the time-out or the running job's
    /// deadline.
    pub async fn post(&self, url: Url, headers: HeaderMap, body: Bytes) -> Result<Answer, Error> {
        // A literal address is not asked of any resolver.
        self.check(&url)?;
        let start = Instant::now();
        let limit = context::remaining(self.config.timeout);
        let request = self.client.post(url).headers(headers).body(body).timeout(limit);
        let response = request.send().await.map_err(|error| reason(&error))?;
        let answer = Answer {
            status: response.status(),
            retry_after: retry_after(response.headers(), OffsetDateTime::now_utc()),
            took: start.elapsed(),
        };
        // The status has decided, whatever becomes of the rest.
        let _ = timeout(ANSWER_WAIT, read_to_end(response)).await;
        Ok(answer)
    }
}

/// Up to the bound: a connection whose answer was not read to its end is not used again.
async fn read_to_end(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > MAX_ANSWER {
            return;
        }
    }
}

/// Without the address, which may hold a secret.
fn reason(error: &reqwest::Error) -> Error {
    let mut source = error.source();
    let mut last = "no connection".to_owned();
    while let Some(cause) = source {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return Error::Refused(*refusal);
        }
        last = cause.to_string();
        source = cause.source();
    }
    if error.is_timeout() { Error::Timeout } else { Error::Unreachable(last) }
}

/// Seconds, or a date (RFC 9110).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    Some((date - now).try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests;
