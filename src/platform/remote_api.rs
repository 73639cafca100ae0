//! An HTTP service of somebody else's: one base URL, a time-out, a bound on answers and a breaker.
//!
//! Its address comes from the operator, so it may be anything; addresses that users name are not
//! called by this.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use reqwest::{Client, RequestBuilder, Response, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use super::{breaker::Breaker, context::Context, jobs::Failure};

/// A server that does not even accept a connection for this long will not answer in time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// No service is given more patience than this at once.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

#[derive(Clone)]
pub struct Config {
    pub url: Url,
    /// Sent as a bearer token.
    pub key: Option<SecretString>,
    /// For a call, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of an answer: whatever is longer is something else.
    pub longest_answer: usize,
}

pub struct RemoteApi {
    client: Client,
    url: Url,
    key: Option<SecretString>,
    longest_answer: usize,
    breaker: Breaker,
}

/// The leave to make one call. Asked for before anything is done for the call's sake, so that a
/// service that is away costs nobody anything else.
pub struct Call<'a>(&'a RemoteApi);

/// What a service that is well has said. Its status may still be an error of the caller's.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Why there is no answer. Whether the service has done what it was asked is not known.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Not even asked: it has just failed several times in a row.
    #[error("it has failed several times in a row")]
    KeptAway,
    /// It is well, and has had enough of us for now (429).
    #[error("the service answered 429")]
    TooMany { retry_after: Option<Duration> },
    /// It failed, or was not heard of in time.
    #[error("{why}")]
    Failed { why: String, retry_after: Option<Duration> },
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::KeptAway => Self::postpone_while_kept_away(),
            Unanswered::TooMany { retry_after } => {
                Self::Retry { why: "the service answered 429".to_owned(), after: retry_after }
            }
            Unanswered::Failed { why, retry_after } => Self::Retry { why, after: retry_after },
        }
    }
}

impl RemoteApi {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// The client cannot be built: this machine has no usable root certificates.
    pub fn new(config: &Config, breaker: Breaker) -> anyhow::Result<Self> {
        let client = Client::builder()
            .timeout(config.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()?;
        let Config { url, key, longest_answer, .. } = config.clone();
        Ok(Self { client, url, key, longest_answer, breaker })
    }

    /// Whether it may be called now.
    ///
    /// # Errors
    /// `KeptAway` while the breaker is open.
    pub fn admit(&self) -> Result<Call<'_>, Unanswered> {
        if self.breaker.allows() { Ok(Call(self)) } else { Err(Unanswered::KeptAway) }
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Answer, Unanswered> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        if let Some(traceparent) = Context::current().and_then(|now| now.traceparent.clone()) {
            request = request.header("traceparent", traceparent);
        }
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Unanswered::TooMany { retry_after: retry_after(&response) });
        }
        if status.is_server_error() {
            let why = format!("the service answered {}", status.as_u16());
            return Err(Unanswered::Failed { why, retry_after: retry_after(&response) });
        }
        Ok(Answer { status, body: read(response, self.longest_answer).await? })
    }

    fn address(&self, path: &[&str]) -> Result<Url, Unanswered> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(unanswered("the service's URL takes no path")),
        };
        Ok(url)
    }
}

impl Call<'_> {
    /// Posts JSON to a path below the base URL, given by its segments. What comes twice with the
    /// same idempotency key, the service has to do once.
    ///
    /// # Errors
    /// There is no answer, or one of 429 or 5xx, which is no answer either.
    pub async fn post(
        self,
        path: &[&str],
        idempotency_key: &str,
        body: &impl Serialize,
    ) -> Result<Answer, Unanswered> {
        let request = self.0.client.post(self.0.address(path)?);
        self.make(request.header("idempotency-key", idempotency_key).json(body)).await
    }

    /// Asks for what is at a path below the base URL, with these parameters.
    ///
    /// # Errors
    /// As of `post`.
    pub async fn get(
        self,
        path: &[&str],
        parameters: &[(&str, &str)],
    ) -> Result<Answer, Unanswered> {
        let mut address = self.0.address(path)?;
        if !parameters.is_empty() {
            address.query_pairs_mut().extend_pairs(parameters);
        }
        let request = self.0.client.get(address);
        self.make(request).await
    }

    /// Puts JSON at a path below the base URL. It may be put twice.
    ///
    /// # Errors
    /// As of `post`.
    pub async fn put(self, path: &[&str], body: &impl Serialize) -> Result<Answer, Unanswered> {
        let request = self.0.client.put(self.0.address(path)?);
        self.make(request.json(body)).await
    }

    async fn make(self, request: RequestBuilder) -> Result<Answer, Unanswered> {
        let Self(api) = self;
        let answer = api.send(request).await;
        match &answer {
            Ok(_) | Err(Unanswered::TooMany { .. }) => api.breaker.record_success(),
            // Also one that says when to come back: most who answer 503 name a time.
            Err(_) => {
                api.breaker.record_failure();
            }
        }
        answer
    }
}

async fn read(mut response: Response, longest: usize) -> Result<Bytes, Unanswered> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        if body.len() + part.len() > longest {
            return Err(unanswered("the service's answer is too long"));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// Seconds only: a date would need clocks that agree.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

/// Without the URL, which may have a password in it.
fn failed(error: reqwest::Error) -> Unanswered {
    if error.is_timeout() {
        return unanswered("the service did not answer in time");
    }
    let error = anyhow::Error::new(error.without_url());
    unanswered(&format!("{error:#}"))
}

fn unanswered(why: &str) -> Unanswered {
    Unanswered::Failed { why: why.to_owned(), retry_after: None }
}
