//! Redis: speed, never truth. Every caller says what it does when Redis is away.
//!
//! One multiplexed connection serves the hot path. A checkout from a pool would cost two more
//! round trips per command (27 µs of CPU per request instead of 10); a pool is for what needs a
//! connection of its own, such as blocking reads.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_redis::redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisError, RedisFuture, ServerErrorKind,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use prometheus::Histogram;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{breaker::Breaker, metrics::Metrics};

#[derive(Clone)]
pub struct Config {
    pub url: SecretString,
    /// Set before every key, so that several deployments can share one Redis.
    pub prefix: String,
    /// For one command or pipeline.
    pub timeout: Duration,
}

/// Redis could not answer in time. Deliberately without detail: there is nothing a caller could
/// do about one cause that it should not do about the others.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("Redis is not available")]
pub struct Unavailable;

/// The connection of the hot path. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    hot: ConnectionManager,
    shared: Arc<Shared>,
}

struct Shared {
    prefix: String,
    timeout: Duration,
    breaker: Breaker,
    command_seconds: Histogram,
    pipeline_seconds: Histogram,
}

impl Redis {
    /// Connects in the background: a Redis that is away must not keep a replica from starting.
    ///
    /// # Errors
    /// A URL that cannot be parsed.
    pub fn new(config: &Config, metrics: &Metrics, breaker: Breaker) -> anyhow::Result<Self> {
        let info = config.url.expose_secret().into_connection_info()?;
        // With RESP3 a lost connection is noticed at once, not by the next request.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let manager = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(500)))
            // Bounded by `timeout` around the whole call, reconnecting included.
            .set_response_timeout(None)
            // The breaker decides when to try again.
            .set_number_of_retries(0);
        let seconds = metrics.seconds_vec(
            "redis_command_duration_seconds",
            "Time of one round trip to Redis.",
            &["kind"],
        )?;
        Ok(Self {
            hot: ConnectionManager::new_lazy_with_config(client, manager)?,
            shared: Arc::new(Shared {
                prefix: config.prefix.clone(),
                timeout: config.timeout,
                breaker,
                command_seconds: seconds.with_label_values(&["command"]),
                pipeline_seconds: seconds.with_label_values(&["pipeline"]),
            }),
        })
    }

    /// `prefix:name`. What must live in one slot of a cluster shares a `{hash tag}` in `name`.
    pub fn key(&self, name: impl fmt::Display) -> String {
        format!("{}:{name}", self.shared.prefix)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// `Unavailable` when Redis did not answer in time or answered with an error.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let mut hot = self.hot.clone();
        let answer = self.guarded(&self.shared.command_seconds, hot.req_packed_command(command));
        let value = answer.await.map_err(|_| Unavailable)?;
        T::from_redis_value(value).map_err(|error| {
            tracing::warn!(%error, "unexpected answer from Redis");
            Unavailable
        })
    }

    /// Runs several commands in one round trip. With `NoScript` a script they call has to be
    /// loaded first; see [`Redis::load`].
    ///
    /// # Errors
    /// Redis did not answer in time, or lost its scripts.
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Failure> {
        let mut hot = self.hot.clone();
        let answer = self.guarded(
            &self.shared.pipeline_seconds,
            Box::pin(async move { commands.query_async::<T>(&mut hot).await }),
        );
        answer.await
    }

    /// Loads a script, so that `EVALSHA` knows it.
    ///
    /// # Errors
    /// Redis did not answer in time.
    pub async fn load(&self, script: &'static str) -> Result<(), Unavailable> {
        let mut load = deadpool_redis::redis::cmd("SCRIPT");
        self.run(load.arg("LOAD").arg(script)).await
    }

    /// Whether Redis answers, asked past the breaker.
    pub async fn ping(&self, limit: Duration) -> bool {
        let mut hot = self.hot.clone();
        let ping = deadpool_redis::redis::cmd("PING");
        matches!(timeout(limit, hot.req_packed_command(&ping)).await, Ok(Ok(_)))
    }

    /// Whether calls are being kept away from a Redis that failed.
    pub fn is_degraded(&self) -> bool {
        self.shared.breaker.is_open()
    }

    async fn guarded<T>(
        &self,
        seconds: &Histogram,
        call: RedisFuture<'_, T>,
    ) -> Result<T, Failure> {
        let shared = &*self.shared;
        if !shared.breaker.allows() {
            return Err(Failure::Unavailable);
        }
        let start = Instant::now();
        // Never less, however near the deadline is: a read ends with its request anyway, and a write
        // that has outlived its deadline must still bury what it changes. Nor do impatient clients
        // make a healthy Redis look slow.
        let answer = timeout(shared.timeout, call).await;
        seconds.observe(start.elapsed().as_secs_f64());
        match answer {
            Ok(Ok(value)) => {
                shared.breaker.record_success();
                return Ok(value);
            }
            Ok(Err(error)) if is_no_script(&error) => {
                // An answer: without this, a Redis that was restarted empty would stay cut off,
                // since the script could not be loaded while the breaker is open.
                shared.breaker.record_success();
                return Err(Failure::NoScript);
            }
            // Full, read-only or loading: it answers at once, so nothing is gained by not asking.
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::Server(_)) => {
                tracing::warn!(%error, "Redis refused");
            }
            Ok(Err(error)) => {
                shared.breaker.record_failure();
                tracing::debug!(%error, "Redis cannot be reached");
            }
            Err(_) => {
                shared.breaker.record_failure();
                tracing::debug!("Redis did not answer in time");
            }
        }
        Err(Failure::Unavailable)
    }
}

/// Why a pipeline failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Unavailable,
    /// Redis was restarted or flushed and no longer knows the script.
    NoScript,
}

fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
