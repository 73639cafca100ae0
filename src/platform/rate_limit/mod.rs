//! Rate limits: one count for the whole fleet, kept in Redis (GCRA in Lua, by Redis' clock).
//!
//! While Redis is away each replica grants a share of the quota by itself, so that guessing
//! passwords does not become free.

mod guesses;
mod local;

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::redis::{FromRedisValue, Value, from_redis_value};
use prometheus::IntCounterVec;

use self::local::LocalBuckets;
use super::{
    metrics::Metrics,
    redis::{Redis, Script},
};

/// So many requests in so much time, and all of them at once if need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Names the policy in headers and metrics.
    pub name: &'static str,
    pub quota: u32,
    pub window: Duration,
}

impl Policy {
    /// Microseconds between two requests at the steady rate.
    fn interval_micros(&self) -> u64 {
        (self.window.as_micros() as u64 / u64::from(self.quota)).max(1)
    }
}

/// `quota/seconds`, as in `600/60`.
pub fn parse_policy(name: &'static str) -> impl Fn(&str) -> Result<Policy, String> {
    move |value| {
        let policy = value.split_once('/').and_then(|(quota, seconds)| {
            let (quota, seconds) = (quota.parse().ok()?, seconds.parse().ok()?);
            (quota > 0 && seconds > 0).then(|| Policy {
                name,
                quota,
                window: Duration::from_secs(seconds),
            })
        });
        policy.ok_or_else(|| format!("`{value}` is not of the form REQUESTS/SECONDS, as in 600/60"))
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub policy: Policy,
    pub allowed: bool,
    pub remaining: u32,
    /// Until the whole quota is there again.
    pub reset: Duration,
    /// Until a refused request would be let through.
    pub retry_after: Duration,
}

impl Decision {
    fn new(policy: Policy, (allowed, remaining, reset, retry): Counted) -> Self {
        Self {
            policy,
            allowed: allowed == 1,
            remaining,
            reset: Duration::from_micros(reset),
            retry_after: Duration::from_micros(retry),
        }
    }
}

/// Decides. Cheap to clone.
#[derive(Clone)]
pub struct RateLimiter {
    redis: Redis,
    script: Arc<Script>,
    guesses: Arc<guesses::Scripts>,
    local: Arc<LocalBuckets>,
    decisions: IntCounterVec,
}

impl RateLimiter {
    /// `local_share`: the part of each quota that one replica grants while Redis is away.
    ///
    /// # Errors
    /// The metric is registered twice.
    pub fn new(redis: Redis, local_share: f64, metrics: &Metrics) -> prometheus::Result<Self> {
        Ok(Self {
            redis,
            script: Arc::new(Script::new(include_str!("gcra.lua"))),
            guesses: Arc::new(guesses::Scripts::new()),
            local: Arc::new(LocalBuckets::new(local_share)),
            decisions: metrics.counter_vec(
                "rate_limit_decisions_total",
                "Requests by policy and what became of them; local_*: decided without Redis.",
                &["policy", "decision"],
            )?,
        })
    }

    /// Counts one request of `who`.
    pub async fn check(&self, policy: Policy, who: impl fmt::Display) -> Decision {
        let (decision, _) = self.check_and_get(policy, who, 1, &[]).await;
        decision
    }

    /// What is left to `who`, without spending any of it.
    pub async fn peek(&self, policy: Policy, who: impl fmt::Display) -> Decision {
        let (decision, _) = self.check_and_get(policy, who, 0, &[]).await;
        decision
    }

    /// Counts a request of `who` that costs `cost`, and reads `keys`, which share a slot with
    /// `who`, in the same round trip. `None` while Redis is away.
    pub async fn check_and_get(
        &self,
        policy: Policy,
        who: impl fmt::Display,
        cost: u32,
        keys: &[&str],
    ) -> (Decision, Option<Vec<Option<String>>>) {
        let bucket = self.key(policy, who);
        let call = self.script.call(&[&[bucket.as_str()], keys].concat());
        let call = call.arg(policy.interval_micros()).arg(policy.quota).arg(cost);
        let answer = self.redis.call::<Vec<Value>>(&call).await.ok().and_then(read_answer);
        let (decision, values, labels) = match answer {
            Some((counted, values)) => {
                (Decision::new(policy, counted), Some(values), ["allowed", "refused"])
            }
            None => {
                let decision = self.local.check(policy, bucket, cost);
                (decision, None, ["local_allowed", "local_refused"])
            }
        };
        let label = labels[usize::from(!decision.allowed)];
        self.decisions.with_label_values(&[policy.name, label]).inc();
        (decision, values)
    }

    fn key(&self, policy: Policy, who: impl fmt::Display) -> String {
        self.redis.key(format_args!("limit:{}:{who}", policy.name))
    }
}

/// Allowed, remaining, microseconds until all is back, microseconds until a retry may pass.
type Counted = (u8, u32, u64, u64);

/// What was counted, then the values that were asked for.
fn read_answer(answer: Vec<Value>) -> Option<(Counted, Vec<Option<String>>)> {
    let mut items = answer.into_iter();
    let numbers: Vec<Value> = items.by_ref().take(4).collect();
    let numbers = FromRedisValue::from_redis_value(Value::Array(numbers)).ok()?;
    let values = items.map(from_redis_value).collect::<Result<_, _>>().ok()?;
    Some((numbers, values))
}
