//! What handlers share.

use std::sync::Arc;

use crate::{
    config::{Config, Limits},
    platform::{
        breaker::Breakers,
        cache::{Cache, Caches},
        db::Db,
        health::Health,
        idempotency::Idempotency,
        metrics::Metrics,
        passwords::Passwords,
        rate_limit::RateLimiter,
        redis::Redis,
        sessions::Sessions,
        shutdown::Tasks,
        storage::Storage,
        tokens::Tokens,
    },
};

/// Everything a handler may need, passed as `State(app): State<AppState>`.
///
/// One struct rather than request extensions: what is missing is a compile error. Every field is
/// a handle that is cheap to clone, and so is the whole.
#[derive(Clone)]
pub struct AppState {
    /// Postgres: `read`, `primary`, `begin`.
    pub db: Db,
    /// Transactions that happen once per `Idempotency-Key`.
    pub idempotency: Idempotency,
    /// Log-ins: durable in Postgres, hot in Redis.
    pub sessions: Sessions,
    /// Signs and verifies access tokens.
    pub tokens: Tokens,
    /// Hashes and verifies passwords, a few at a time.
    pub passwords: Passwords,
    /// Fleet-wide rate limits, and the policies they apply.
    pub limiter: RateLimiter,
    pub limits: Arc<Limits>,
    /// Serialised products by id.
    pub product_cache: Cache,
    /// Serialised pages of the catalogue by query.
    pub catalogue_cache: Cache,
    /// Whether this replica should get requests.
    pub health: Health,
    pub metrics: Metrics,
    /// Background tasks, and the word that it is time to end.
    pub tasks: Tasks,
}

impl AppState {
    /// Builds every part. Nothing is connected yet, so this works while dependencies are away.
    ///
    /// # Errors
    /// A key, URL or metric that is unusable.
    pub async fn new(config: &Config, tasks: Tasks) -> anyhow::Result<Self> {
        let metrics = Metrics::new()?;
        let breakers = Breakers::new(&metrics)?;
        let db = Db::new(&config.database, &metrics, &breakers, &tasks)?;
        let redis = Redis::new(&config.redis, &metrics, breakers.named("redis"))?;
        let storage = Storage::new(&config.storage).await;
        let caches = Caches::new(redis.clone(), &metrics)?;
        Ok(Self {
            idempotency: Idempotency::new(db.clone(), &metrics)?,
            sessions: Sessions::new(config.sessions.clone(), db.clone(), redis.clone()),
            tokens: Tokens::new(&config.tokens)?,
            passwords: Passwords::new(&config.passwords)?,
            limiter: RateLimiter::new(redis.clone(), config.limits.local_share, &metrics)?,
            limits: Arc::new(config.limits.clone()),
            product_cache: product_cache(&caches),
            catalogue_cache: caches.cache("catalogue", CATALOGUE_TTL),
            health: Health::new(db.clone(), redis, storage, tasks.clone()),
            db,
            metrics,
            tasks,
        })
    }
}

/// The cache of products by id; apart, since the command line writes products as well.
pub fn product_cache(caches: &Caches) -> Cache {
    caches.cache("product", PRODUCT_TTL)
}

/// Buried on every write, so this bounds memory rather than staleness.
const PRODUCT_TTL: std::time::Duration = std::time::Duration::from_secs(300);

/// How late a change may show up in the lists.
const CATALOGUE_TTL: std::time::Duration = std::time::Duration::from_secs(60);
