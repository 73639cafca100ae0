//! Sends webhooks: signed (Standard Webhooks 1.0.0), to the internet only, and to each receiver no
//! more at a time than it can take. What is sent to whom, and how often, is the domain's.

mod batches;
mod lanes;
mod signature;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prometheus::IntCounterVec;
use reqwest::dns::Resolve;
use time::OffsetDateTime;
use url::Url;
use uuid::Uuid;

pub use self::{
    batches::{Batches, Delivered, Due, Failed, Recorded},
    lanes::Place,
    signature::Secret,
};
use self::{lanes::Lanes, signature::signatures};
use super::{
    http::etag::header_value,
    http_client::{self, Answer, Error, HttpClient, Refusal},
    metrics::Metrics,
};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Sends webhooks from this process.
pub struct Webhooks {
    client: HttpClient,
    lanes: Lanes,
    deliveries: IntCounterVec,
    /// What deliveries ask of the database together.
    pub batches: Batches,
}

/// One delivery.
pub struct Message<'a> {
    pub url: Url,
    /// The same whenever it is sent, so that its receiver can tell a repetition.
    pub id: Uuid,
    /// JSON.
    pub body: Bytes,
    /// The current one, and during a rotation the one before.
    pub secrets: &'a [Secret],
}

impl Webhooks {
    /// # Errors
    /// The TLS configuration is unusable, or the metric is registered twice.
    pub fn new(
        config: http_client::Config,
        resolver: Arc<dyn Resolve>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let deliveries = metrics.counter_vec(
            "webhook_deliveries_total",
            "Attempts by outcome: delivered, failed, gone (410), refused, timeout, unreachable.",
            &["outcome"],
        )?;
        let client = HttpClient::new(config, resolver)?;
        Ok(Self { client, lanes: Lanes::new(), deliveries, batches: Batches::default() })
    }

    /// As [`HttpClient::check`].
    ///
    /// # Errors
    /// Why webhooks are not sent to this address.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        self.client.check(url)
    }

    /// Asks for the right to send to a receiver.
    ///
    /// # Errors
    /// It is too busy: how long to put the delivery off.
    pub async fn enter(&self, receiver: Uuid) -> Result<Place, std::time::Duration> {
        self.lanes.enter(receiver).await
    }

    /// One attempt. `place` is left with it, and learns from it.
    ///
    /// # Errors
    /// The address is refused, or there was no answer in time.
    pub async fn send(&self, mut place: Place, message: Message<'_>) -> Result<Answer, Error> {
        let Message { url, id, body, secrets } = message;
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, JSON),
            (WEBHOOK_ID, header_value(&id.to_string())),
            (WEBHOOK_TIMESTAMP, header_value(&timestamp.to_string())),
            (WEBHOOK_SIGNATURE, header_value(&signatures(secrets, id, timestamp, &body))),
        ]);
        place.begin();
        let answer = self.client.post(url, headers, body).await;
        place.end();
        let outcome = match &answer {
            Ok(answer) if answer.status.is_success() => "delivered",
            Ok(answer) if answer.status == StatusCode::GONE => "gone",
            Ok(_) => "failed",
            Err(Error::Refused(_)) => "refused",
            Err(Error::Timeout) => "timeout",
            Err(Error::Unreachable(_)) => "unreachable",
        };
        self.deliveries.with_label_values(&[outcome]).inc();
        answer
    }
}
