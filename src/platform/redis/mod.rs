//! Redis: speed, never truth. Every caller says what it does when Redis is away.
//!
//! One multiplexed connection serves the hot path. A checkout from a pool would cost two more
//! round trips per command (27 µs of CPU per request instead of 10). Several URLs are the nodes
//! of a Redis Cluster; therefore every script names its keys, and those share a `{hash tag}`.
//!
//! Reading order: this file, `script.rs`, `link.rs`, `batch.rs`.

mod batch;
mod link;
mod script;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::{
    self, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value,
};
use prometheus::Histogram;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use self::link::Links;
pub use self::script::{Call, Script};
use super::{breaker::Breaker, metrics::Metrics, shutdown::Tasks};
pub use deadpool_redis::redis::cmd;

#[derive(Clone)]
pub struct Config {
    /// One server, or some nodes of a cluster.
    pub urls: Vec<SecretString>,
    /// Set before every key, so that several deployments can share one Redis.
    pub prefix: String,
    /// For one command or script, a retry on a new connection included.
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
    shared: Arc<Shared>,
}

struct Shared {
    links: Links,
    prefix: String,
    timeout: Duration,
    breaker: Breaker,
    command_seconds: Histogram,
    script_seconds: Histogram,
    started: Instant,
    /// The second after `started` in which a refusal was last logged.
    reported: AtomicU64,
}

/// Why there is no answer.
enum Failure {
    /// Nothing arrived, or the connection broke: the breaker counts it.
    Unreachable,
    /// An error of the server's. It answers, so nothing is gained by not asking it.
    Refused(RedisError),
}

impl Redis {
    /// Connects when first used: a Redis that is away must not keep a replica from starting.
    ///
    /// # Errors
    /// A URL that cannot be parsed.
    pub fn new(
        config: &Config,
        metrics: &Metrics,
        breaker: Breaker,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let seconds = metrics.seconds_vec(
            "redis_command_duration_seconds",
            "Time of one round trip to Redis.",
            &["kind"],
        )?;
        Ok(Self {
            shared: Arc::new(Shared {
                links: Links::new(&config.urls, config.timeout, tasks.clone())?,
                prefix: config.prefix.clone(),
                timeout: config.timeout,
                breaker,
                command_seconds: seconds.with_label_values(&["command"]),
                script_seconds: seconds.with_label_values(&["script"]),
                started: Instant::now(),
                reported: AtomicU64::new(0),
            }),
        })
    }

    /// `prefix:name`. What one script touches shares a `{hash tag}` in `name`.
    pub fn key(&self, name: impl fmt::Display) -> String {
        format!("{}:{name}", self.shared.prefix)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// `Unavailable` when Redis did not answer in time or answered with an error.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let value = self.guarded(&self.shared.command_seconds, command).await;
        read(value.map_err(|failure| self.report(failure))?)
    }

    /// Runs a script, which is sent along if Redis does not know it.
    ///
    /// # Errors
    /// `Unavailable` when Redis did not answer in time or answered with an error.
    pub async fn call<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, Unavailable> {
        let seconds = &self.shared.script_seconds;
        let mut value = self.guarded(seconds, call.by_digest()).await;
        if matches!(&value, Err(Failure::Refused(error)) if is_no_script(error)) {
            // Restarted or flushed. This also makes the script known.
            value = self.guarded(seconds, &call.by_source()).await;
        }
        read(value.map_err(|failure| self.report(failure))?)
    }

    /// Whether Redis answers, asked past the breaker.
    pub async fn ping(&self, limit: Duration) -> bool {
        let ping = redis::cmd("PING");
        matches!(timeout(limit, self.exchange(&ping)).await, Ok(Ok(_)))
    }

    /// Whether calls are being kept away from a Redis that failed.
    pub fn is_degraded(&self) -> bool {
        self.shared.breaker.is_open()
    }

    /// A connection of one's own that messages are pushed on.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn subscribe(&self, channel: &str) -> redis::RedisResult<redis::aio::PubSub> {
        self.shared.links.subscribe(channel).await
    }

    /// Logs what Redis refused; a full one refuses several times a request, so once a second.
    fn report(&self, failure: Failure) -> Unavailable {
        if let Failure::Refused(error) = failure {
            let now = self.shared.started.elapsed().as_secs() + 1;
            if self.shared.reported.swap(now, Ordering::Relaxed) != now {
                tracing::warn!(%error, "Redis refused");
            }
        }
        Unavailable
    }

    async fn guarded(&self, seconds: &Histogram, command: &Cmd) -> Result<Value, Failure> {
        let shared = &*self.shared;
        if !shared.breaker.allows() {
            return Err(Failure::Unreachable);
        }
        let start = Instant::now();
        // Never less, however near the deadline is: a read ends with its request anyway, and a write
        // that has outlived its deadline must still bury what it changes. Nor do impatient clients
        // make a healthy Redis look slow.
        let answer = timeout(shared.timeout, self.exchange(command)).await;
        seconds.observe(start.elapsed().as_secs_f64());
        match answer {
            Ok(Err(Failure::Unreachable)) | Err(_) => {
                if shared.breaker.record_failure() {
                    // The connection may lead to a host that is gone, without either end having
                    // been told. The probe that closes the breaker makes a new one.
                    shared.links.forget_established();
                }
                Err(Failure::Unreachable)
            }
            Ok(answer) => {
                shared.breaker.record_success();
                answer
            }
        }
    }

    /// One command on the current connection, or on a new one if that turns out to be broken.
    /// Everything sent here may happen twice.
    async fn exchange(&self, command: &Cmd) -> Result<Value, Failure> {
        let links = &self.shared.links;
        for _ in 0..2 {
            let Some((mut link, generation)) = links.get().await else {
                return Err(Failure::Unreachable);
            };
            match link.send(command).await {
                Ok(value) => return Ok(value),
                // Demoted by a fail-over: its successor is found by a new connection.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                    links.forget(generation);
                }
                // Whatever has a code was said by the server: that it is full, too.
                Err(error) if error.code().is_some() => return Err(Failure::Refused(error)),
                Err(error) => {
                    tracing::debug!(%error, "the connection to Redis broke");
                    links.forget(generation);
                }
            }
        }
        Err(Failure::Unreachable)
    }
}

/// Whether `url` leads to a Redis, as far as one can tell by looking at it.
pub fn is_url(url: &SecretString) -> bool {
    redis::Client::open(url.expose_secret()).is_ok()
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Unavailable> {
    T::from_redis_value(value).map_err(|error| {
        tracing::warn!(%error, "unexpected answer from Redis");
        Unavailable
    })
}

fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
