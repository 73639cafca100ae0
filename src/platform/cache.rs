//! The cache in Redis: serialised answers, ready to be sent.
//!
//! A write does not delete an entry, it buries it: the tombstone outlives any load that began
//! before the write, and a fill never replaces what is there. So a slow reader that loaded the
//! old value cannot bring it back. Lists are not buried one by one; they expire within a minute.

use std::{fmt, future::Future, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use deadpool_redis::redis::{Cmd, cmd};
use prometheus::IntCounter;
use rand::RngExt;

use super::{metrics::Metrics, redis::Redis};

/// Longer than any request may take, and with it any load that began before the write.
const TOMBSTONE_TTL: Duration = Duration::from_secs(30);

/// Larger answers are not kept: anybody may ask for any page of the catalogue.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// No entry looks like this: each has a line break.
const TOMBSTONE: &[u8] = b"-";

/// A serialised answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the head of the response needs: the entity tag of an item, the next cursor of a list.
    /// Without line breaks.
    pub meta: String,
    pub body: Bytes,
}

/// How an answer was come by: the `Cache-Status` of RFC 9211.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Hit,
    Miss,
}

impl Status {
    pub fn header(self) -> &'static str {
        match self {
            Self::Hit => "shoal; hit",
            Self::Miss => "shoal; fwd=miss",
        }
    }
}

/// One kind of cached thing. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    name: &'static str,
    redis: Redis,
    ttl: Duration,
    hits: IntCounter,
    misses: IntCounter,
    bypasses: IntCounter,
    rejected_fills: IntCounter,
}

/// Makes the caches of the process, which share one metric.
#[derive(Clone)]
pub struct Caches {
    redis: Redis,
    requests: prometheus::IntCounterVec,
}

impl Caches {
    /// # Errors
    /// The metric is registered twice.
    pub fn new(redis: Redis, metrics: &Metrics) -> prometheus::Result<Self> {
        let requests = metrics.counter_vec(
            "cache_requests_total",
            "Look-ups by cache, tier and result; bypass: Redis was away.",
            &["cache", "tier", "result"],
        )?;
        Ok(Self { redis, requests })
    }

    /// `ttl` is an upper bound: each entry lives up to a tenth less, so that those filled
    /// together do not all expire together.
    pub fn cache(&self, name: &'static str, ttl: Duration) -> Cache {
        let counter = |result| self.requests.with_label_values(&[name, "redis", result]);
        Cache {
            name,
            redis: self.redis.clone(),
            ttl,
            hits: counter("hit"),
            misses: counter("miss"),
            bypasses: counter("bypass"),
            rejected_fills: counter("rejected_fill"),
        }
    }
}

impl Cache {
    /// The entry of `key`, or what `load` finds, which is then kept for others. With Redis away
    /// it is loaded every time.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn get_or_load<E>(
        &self,
        key: impl fmt::Display,
        load: impl Future<Output = Result<Option<Entry>, E>>,
    ) -> Result<Option<(Entry, Status)>, E> {
        let key = self.redis.key(format_args!("cache:{}:{key}", self.name));
        let found = self.redis.run::<Option<Bytes>>(&Cmd::get(&key)).await;
        let may_fill = match found {
            Ok(Some(bytes)) if bytes != TOMBSTONE => {
                if let Some(entry) = decode(&bytes) {
                    self.hits.inc();
                    return Ok(Some((entry, Status::Hit)));
                }
                true
            }
            Ok(found) => {
                self.misses.inc();
                found.is_none()
            }
            Err(_) => {
                self.bypasses.inc();
                false
            }
        };
        let Some(entry) = load.await? else {
            return Ok(None);
        };
        if may_fill {
            self.fill(&key, &entry).await;
        }
        Ok(Some((entry, Status::Miss)))
    }

    /// Makes sure that nobody is served what `key` was before a write, from now until long after
    /// its transaction has ended.
    pub async fn bury(&self, key: impl fmt::Display) {
        let mut set = cmd("SET");
        set.arg(self.redis.key(format_args!("cache:{}:{key}", self.name)));
        set.arg(TOMBSTONE).arg("PX").arg(TOMBSTONE_TTL.as_millis() as u64);
        if self.redis.run::<()>(&set).await.is_err() {
            tracing::warn!(cache = self.name, "a stale entry may be served until it expires");
        }
    }

    async fn fill(&self, key: &str, entry: &Entry) {
        if entry.body.len() > MAX_BODY_BYTES {
            return;
        }
        let jitter = rand::rng().random_range(0.9..1.0);
        let mut set = cmd("SET");
        set.arg(key).arg(&encode(entry)[..]).arg("NX");
        set.arg("PX").arg(self.ttl.mul_f64(jitter).as_millis() as u64);
        if let Ok(None) = self.redis.run::<Option<String>>(&set).await {
            self.rejected_fills.inc();
        }
    }
}

/// `meta`, a line break, the body.
fn encode(entry: &Entry) -> Bytes {
    let mut bytes = BytesMut::with_capacity(entry.meta.len() + 1 + entry.body.len());
    bytes.put_slice(entry.meta.as_bytes());
    bytes.put_u8(b'\n');
    bytes.put_slice(&entry.body);
    bytes.freeze()
}

fn decode(bytes: &Bytes) -> Option<Entry> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some(Entry {
        meta: std::str::from_utf8(&bytes[..end]).ok()?.to_owned(),
        body: bytes.slice(end + 1..),
    })
}
