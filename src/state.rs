//! What handlers share.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, IntCounterVec};

use crate::{
    config::{Config, Limits, Orders, Uploads},
    platform::{
        breaker::Breakers,
        cache::{Cache, Caches},
        consistency::Positions,
        db::Db,
        fleet::Fleet,
        health::Health,
        http_client::SystemResolver,
        idempotency::Idempotency,
        jobs::wake,
        locks::Locks,
        mail::Mailer,
        metrics::Metrics,
        passwords::Passwords,
        rate_limit::RateLimiter,
        redis::Redis,
        remote_api::RemoteApi,
        sessions::Sessions,
        shutdown::Tasks,
        storage::Storage,
        streams::Streams,
        tokens::Tokens,
        turns::Turns,
        upkeep::Upkeep,
        webhooks::Webhooks,
    },
};

/// What handlers get, by `State(app): State<AppState>`. Behind one pointer, since axum clones it
/// several times a request.
pub type AppState = Arc<App>;

/// Everything a handler may need. One struct rather than request extensions: what is missing is a
/// compile error.
pub struct App {
    /// Postgres: `read`, `primary`, `begin`.
    pub db: Db,
    /// Redis, for what is not behind a part of its own.
    pub redis: Redis,
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
    pub limits: Limits,
    /// Keeps the platform's tables in order.
    pub upkeep: Upkeep,
    pub orders: Orders,
    /// How far each user's writes have got.
    pub positions: Positions,
    /// Serialised products by id.
    pub product_cache: Cache,
    /// Serialised pages of the catalogue by query.
    pub catalogue_cache: Cache,
    /// The payment provider, if there is one.
    pub payments: Option<RemoteApi>,
    /// The way to the mail server, if there is one.
    pub mail: Option<Mailer>,
    /// Sends signed messages to whoever asked for them.
    pub webhooks: Webhooks,
    /// The bucket for uploads, and what may be uploaded.
    pub storage: Storage,
    pub uploads: Uploads,
    /// Looks at uploaded files, and shrinks pictures, a few at a time.
    pub file_checks: Turns,
    /// What became of uploads.
    pub uploads_total: IntCounterVec,
    /// Whether this replica should get requests.
    pub health: Health,
    /// Who else runs.
    pub fleet: Fleet,
    /// Live streams of events.
    pub streams: Streams,
    /// How old events are when the reports show them.
    pub reports_lag: Histogram,
    pub metrics: Metrics,
    /// Background tasks, and the word that it is time to end.
    pub tasks: Tasks,
}

impl App {
    /// Builds every part. Nothing is connected yet, so this works while dependencies are away.
    ///
    /// # Errors
    /// A key, URL or metric that is unusable.
    pub async fn new(config: &Config, tasks: Tasks) -> anyhow::Result<AppState> {
        let metrics = Metrics::new()?;
        let breakers = Breakers::new(&metrics)?;
        let db = Db::new(&config.database, &metrics, &breakers, &tasks)?;
        let redis = Redis::new(&config.redis, &metrics, breakers.named("redis"), &tasks)?;
        wake::tell(db.bell(), &redis, &tasks);
        let storage = Storage::new(&config.storage, breakers.named("s3"), &metrics).await?;
        let caches = Caches::new(&config.cache, redis.clone(), db.clone(), &metrics, &tasks)?;
        let tokens = Tokens::new(&config.tokens)?;
        let payments = config.payments.as_ref();
        let payments = payments.map(|config| RemoteApi::new(config, breakers.named("payments")));
        let mail = config.mail.as_ref();
        let mail = mail.map(|config| Mailer::new(config, breakers.named("smtp")));
        let health = Health::new(db.clone(), redis.clone(), storage.clone(), tasks.clone());
        let positions = Positions::new(redis.clone(), &config.tokens.secrets(), &tasks);
        Ok(Arc::new(Self {
            idempotency: Idempotency::new(db.clone(), &metrics)?,
            sessions: Sessions::new(config.sessions.clone(), db.clone(), redis.clone()),
            tokens,
            positions,
            passwords: Passwords::new(&config.passwords)?,
            limiter: RateLimiter::new(redis.clone(), config.limits.local_share, &metrics)?,
            limits: config.limits.clone(),
            upkeep: Upkeep::new(db.clone(), Locks::new(redis.clone()), config.upkeep.clone()),
            orders: config.orders.clone(),
            product_cache: product_cache(&caches),
            catalogue_cache: catalogue_cache(&caches),
            payments: payments.transpose()?,
            mail: mail.transpose()?,
            webhooks: Webhooks::new(config.webhooks, Arc::new(SystemResolver), &metrics)?,
            fleet: Fleet::new(&config.fleet, redis.clone(), health.clone(), breakers, &metrics)?,
            health,
            storage,
            uploads: config.uploads.clone(),
            file_checks: Turns::new(config.uploads.checks, CHECKS_WAITING),
            uploads_total: metrics.counter_vec(
                "uploads_total",
                "Uploads by what became of them.",
                &["purpose", "outcome"],
            )?,
            streams: Streams::new(&config.streams, &metrics)?,
            reports_lag: metrics.seconds(
                "reports_lag_seconds",
                "Time from an event of an order to its being in the reports.",
            )?,
            redis,
            db,
            metrics,
            tasks,
        }))
    }
}

/// Files that may wait for each that is looked at, some 100 ms apiece.
const CHECKS_WAITING: usize = 16;

/// The cache of products by id; apart, since the command line writes products as well.
pub fn product_cache(caches: &Caches) -> Cache {
    caches.items("product", PRODUCT_FRESH)
}

/// The cache of the catalogue's pages.
pub fn catalogue_cache(caches: &Caches) -> Cache {
    caches.lists("catalogue", CATALOGUE_FRESH)
}

/// Both are evicted by every write: how long they are fresh bounds memory, not staleness.
const PRODUCT_FRESH: Duration = Duration::from_secs(300);
const CATALOGUE_FRESH: Duration = Duration::from_secs(60);
