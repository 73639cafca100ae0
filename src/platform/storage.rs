//! S3, or anything that speaks it.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, timeout::TimeoutConfig};
use aws_sdk_s3::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

/// For one call, retries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Config {
    pub bucket: String,
    pub region: String,
    /// Of a server other than AWS'.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// Key and secret; without them the SDK's own chain is asked (web identity, instance role).
    pub credentials: Option<(SecretString, SecretString)>,
}

/// The bucket of this deployment. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    client: Client,
    bucket: String,
}

impl Storage {
    /// Sends nothing yet.
    pub async fn new(config: &Config) -> Self {
        let timeouts = TimeoutConfig::builder().operation_timeout(CALL_TIMEOUT).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .timeout_config(timeouts);
        if let Some((key, secret)) = &config.credentials {
            let (key, secret) = (key.expose_secret(), secret.expose_secret());
            let credentials = Credentials::new(key, secret, None, None, "environment");
            loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
        }
        let mut settings = aws_sdk_s3::config::Builder::from(&loader.load().await)
            .force_path_style(config.path_style);
        settings.set_endpoint_url(config.endpoint.clone());
        Self { client: Client::from_conf(settings.build()), bucket: config.bucket.clone() }
    }

    /// Whether the bucket can be reached.
    pub async fn ping(&self, limit: Duration) -> bool {
        let head = self.client.head_bucket().bucket(&self.bucket).send();
        matches!(timeout(limit, head).await, Ok(Ok(_)))
    }
}
