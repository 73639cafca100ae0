//! S3, or anything that speaks it.
//!
//! Every call passes three things: a bound on how many there are at a time, so that a slow server
//! cannot gather all requests of the process; a time-out; and the breaker. Signing an address is
//! no call: it goes on while the server is away.
//!
//! Reading order: this file, `objects.rs`, `presign.rs`, `parts.rs`, `buffers.rs`, `error.rs`.

mod buffers;
mod error;
mod objects;
mod parts;
mod presign;

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::{
    Client,
    config::{
        Credentials, RequestChecksumCalculation, ResponseChecksumValidation,
        SharedCredentialsProvider,
    },
};
use futures::future::BoxFuture;
use prometheus::HistogramVec;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use self::buffers::Buffers;
pub use self::{
    error::Error,
    objects::{Listed, MOST_KEYS, NewObject, Page},
    parts::{BodySize, Stored, StreamError},
    presign::{Presigned, PutTerms},
};
use super::{breaker::Breaker, context, metrics::Metrics};

/// How long a call waits for others to end before it is told to come back. With the call's own
/// time-out it makes less than the 3 s within which a step of an upload is answered.
pub(in crate::platform) const PLACE_WAIT: Duration = Duration::from_millis(500);

/// A server that accepts no connection for this long will not answer in time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The first try included. More would take longer than anybody waits.
const ATTEMPTS: u32 = 2;

const RETRY_WAIT: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub struct Config {
    pub bucket: String,
    /// Stands before every key.
    pub prefix: String,
    pub region: String,
    /// Of a server other than AWS'.
    pub endpoint: Option<String>,
    /// Where clients reach it, if elsewhere.
    pub public_endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// Key and secret; without them the SDK's own chain is asked (web identity, instance role).
    pub credentials: Option<(SecretString, SecretString)>,
    /// For one call, retries included.
    pub timeout: Duration,
    /// Calls at the same time.
    pub calls: usize,
}

/// The bucket of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    client: Client,
    /// Signs addresses that clients use.
    signer: Client,
    bucket: String,
    prefix: String,
    timeout: Duration,
    places: Semaphore,
    /// KiB that may be in use by bodies that come in.
    memory: Arc<Semaphore>,
    buffers: Arc<Buffers>,
    breaker: Breaker,
    seconds: HistogramVec,
}

impl Storage {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// The metric is registered twice.
    pub async fn new(
        config: &Config,
        breaker: Breaker,
        metrics: &Metrics,
    ) -> prometheus::Result<Self> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
            .operation_timeout(config.timeout)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(RETRY_WAIT)
            .with_max_backoff(RETRY_WAIT);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .retry_config(retries)
            .timeout_config(timeouts);
        if let Some((key, secret)) = &config.credentials {
            let (key, secret) = (key.expose_secret(), secret.expose_secret());
            let credentials = Credentials::new(key, secret, None, None, "environment");
            loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
        }
        let shared = loader.load().await;
        let client = |endpoint: &Option<String>| {
            // Only where S3 itself asks for one: many of its likenesses know no others, and we
            // verify what we read by a hash of our own.
            let mut settings = aws_sdk_s3::config::Builder::from(&shared)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
                .force_path_style(config.path_style);
            settings.set_endpoint_url(endpoint.clone());
            Client::from_conf(settings.build())
        };
        let public = if config.public_endpoint.is_some() {
            &config.public_endpoint
        } else {
            &config.endpoint
        };
        Ok(Self(Arc::new(Inner {
            client: client(&config.endpoint),
            signer: client(public),
            bucket: config.bucket.clone(),
            prefix: config.prefix.clone(),
            timeout: config.timeout,
            places: Semaphore::new(config.calls),
            memory: Arc::new(Semaphore::new(parts::MEMORY_KIB)),
            buffers: Arc::default(),
            breaker,
            seconds: metrics.seconds_vec(
                "s3_call_duration_seconds",
                "Calls to S3, retries included.",
                &["operation", "outcome"],
            )?,
        })))
    }

    /// Whether the bucket can be reached.
    pub async fn ping(&self, limit: Duration) -> bool {
        let head = self.0.client.head_bucket().bucket(&self.0.bucket).send();
        matches!(timeout(limit, head).await, Ok(Ok(_)))
    }

    /// The time within which a use case of several calls has to be through with them: hardly more
    /// than one call may take, so that a slow server is not waited for again and again.
    pub fn patience(&self) -> Duration {
        self.0.timeout + PLACE_WAIT / 2
    }

    /// The end of the path of an object's address.
    pub(in crate::platform) fn path_of(&self, key: &str) -> String {
        format!("/{}", self.full_key(key))
    }

    /// As the bucket has it.
    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.0.prefix)
    }

    /// Makes one call: in its turn, within its time, and if the breaker lets it. Boxed, since the
    /// SDK's futures take 20 kB, which every caller's would as well.
    async fn call<T>(
        &self,
        operation: &'static str,
        send: BoxFuture<'_, Result<T, Error>>,
    ) -> Result<T, Error> {
        let Inner { places, breaker, seconds, .. } = &*self.0;
        let place = timeout(context::remaining(PLACE_WAIT), places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(Error::Busy);
        };
        if !breaker.allows() {
            return Err(Error::KeptAway);
        }
        let began = Instant::now();
        let limit = context::remaining(self.0.timeout);
        let done = timeout(limit, send).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("no answer within {} ms", limit.as_millis())))
        });
        let outcome = match &done {
            Ok(_) => "ok",
            Err(error) if error.is_outage() => "failed",
            Err(_) => "refused",
        };
        if outcome == "failed" {
            breaker.record_failure();
        } else {
            breaker.record_success();
        }
        let seconds = seconds.with_label_values(&[operation, outcome]);
        seconds.observe(began.elapsed().as_secs_f64());
        done
    }
}
