//! The coherent cache: it never holds or serves what an acknowledged write has replaced.
//!
//! Two tiers: Redis for the fleet, and a small near one in each process, for seconds. Entries are
//! serialised answers.
//!
//! - A write **buries** an entry before it commits and **settles** it afterwards with the position
//!   of the commit ([`eviction`]). Nothing older is kept from then on.
//! - A miss takes a **lease**, which a burial breaks: whoever loaded the old value cannot keep it.
//!   There is one lease, so a cold key is loaded once per fleet.
//! - So an entry found in Redis is valid at every position that anybody was told of. A near copy
//!   is valid up to the position at which it was found there; whoever has to see more asks Redis.
//! - A list belongs to a **generation**, the position of the last write to anything it may show.
//! - Past its freshness an entry is served while one replica loads it anew, and for as long as the
//!   database is away. It is not wrong: a write would have buried it.
//!
//! Reading order: this file, `fetch.rs`, `eviction.rs`, `store.rs` with its scripts, `near.rs`,
//! `listener.rs`, `flights.rs`.

mod entry;
mod eviction;
mod fetch;
mod flights;
mod listener;
mod near;
mod store;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus::{IntCounter, IntCounterVec};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};

pub(in crate::platform) use self::store::{BURIAL, LEASE as LOAD_LEASE};
pub use self::{
    entry::{Entry, Error, Found, Status},
    eviction::{Burial, Eviction},
};
use self::{
    eviction::Repair,
    fetch::{Fetch, Kind},
    flights::Flights,
    near::Near,
    store::Store,
};
use super::{
    db::{self, Consistency, Db},
    metrics::Metrics,
    redis::Redis,
    shutdown::Tasks,
};

/// How long an entry is served past its freshness, should nobody be able to load it anew.
const STALE_LIFE: Duration = Duration::from_secs(300);

/// How long any entry is fresh, at most.
const LONGEST_FRESHNESS: Duration = Duration::from_secs(300);

/// How long an entry may be there at all: what could not be evicted is gone after this.
pub const LONGEST_LIFE: Duration = Duration::from_secs(600);

/// Evictions that wait for Redis to come back.
const REPAIRS: usize = 10_000;

#[derive(Debug, Clone)]
pub struct Config {
    /// How long a near copy may be served.
    pub near_life: Duration,
    /// What the near copies of one cache may take.
    pub near_bytes: u64,
    /// Loads at the same time: fewer than there are connections, so that misses leave some to others.
    pub loads: usize,
}

/// Makes the caches of the process. Cheap to clone.
#[derive(Clone)]
pub struct Caches {
    redis: Redis,
    store: Arc<Store>,
    db: Db,
    config: Config,
    tasks: Tasks,
    bulkhead: Arc<Semaphore>,
    requests: IntCounterVec,
    near: Arc<RwLock<Vec<(&'static str, Near)>>>,
    /// Whether evictions are heard of: what the near caches depend on.
    is_listening: Arc<AtomicBool>,
    repairs: mpsc::Sender<Repair>,
}

/// One kind of cached thing. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    name: &'static str,
    near: Near,
    flights: Arc<Flights<Result<Found, Error>>>,
    fetch: Arc<Fetch>,
    repairs: mpsc::Sender<Repair>,
    near_hits: IntCounter,
}

impl Caches {
    /// Starts to listen for evictions, in the background.
    ///
    /// # Errors
    /// The metric is registered twice.
    pub fn new(
        config: &Config,
        redis: Redis,
        db: Db,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> prometheus::Result<Self> {
        let requests = metrics.counter_vec(
            "cache_requests_total",
            "Look-ups by cache, tier and result; bypass: no cache could be asked; load: of the \
             database.",
            &["cache", "tier", "result"],
        )?;
        let (sender, repairs) = mpsc::channel(REPAIRS);
        let caches = Self {
            store: Arc::new(Store::new(redis.clone())),
            redis,
            db,
            config: config.clone(),
            tasks: tasks.clone(),
            bulkhead: Arc::new(Semaphore::new(config.loads)),
            requests,
            near: Arc::default(),
            is_listening: Arc::default(),
            repairs: sender,
        };
        let (listening, stopping) = (caches.clone(), tasks.stopping());
        tasks.spawn(async move {
            let work = async {
                tokio::join!(listener::listen(&listening), listener::repair(repairs));
            };
            tokio::select! { () = work => {}, () = stopping => {} }
        });
        Ok(caches)
    }

    /// A cache of items by id. They are loaded from the primary.
    pub fn items(&self, name: &'static str, fresh: Duration) -> Cache {
        self.cache(name, fresh, Kind::Items)
    }

    /// A cache of lists by what was asked for. They are evicted all at once, and loaded from
    /// whichever database has seen the last write to them.
    pub fn lists(&self, name: &'static str, fresh: Duration) -> Cache {
        self.cache(name, fresh, Kind::Lists { scope: self.store.slot(name) })
    }

    fn cache(&self, name: &'static str, fresh: Duration, kind: Kind) -> Cache {
        let near =
            Near::new(self.config.near_bytes, self.config.near_life, self.is_listening.clone());
        let counter = |tier, result| self.requests.with_label_values(&[name, tier, result]);
        self.near.write().unwrap_or_else(PoisonError::into_inner).push((name, near.clone()));
        Cache {
            name,
            near: near.clone(),
            flights: Arc::new(Flights::new(self.tasks.clone())),
            repairs: self.repairs.clone(),
            near_hits: counter("near", "hit"),
            fetch: Arc::new(Fetch {
                name,
                kind,
                near,
                store: self.store.clone(),
                db: self.db.clone(),
                tasks: self.tasks.clone(),
                bulkhead: self.bulkhead.clone(),
                fresh: fresh.min(LONGEST_FRESHNESS),
                hits: counter("redis", "hit"),
                stale: counter("redis", "stale"),
                misses: counter("redis", "miss"),
                bypasses: counter("redis", "bypass"),
                rejected_fills: counter("redis", "rejected_fill"),
                loads: counter("database", "load"),
            }),
        }
    }

    fn near(&self, name: &str) -> Option<Near> {
        let all = self.near.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(other, _)| *other == name).map(|(_, near)| near.clone())
    }

    /// From now on evictions are heard of, or no longer are; some may have been missed.
    fn listen(&self, is_listening: bool) {
        self.is_listening.store(false, Ordering::Release);
        let all = self.near.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|(_, near)| near.clear());
        drop(all);
        self.is_listening.store(is_listening, Ordering::Release);
    }
}

impl Cache {
    /// The answer to `key`, which contains what `consistency` asks for. `load` finds it where
    /// no cache has it, reading as it is told to; `None` is remembered as well, for a moment.
    ///
    /// # Errors
    /// Those of `load`, or too many misses at once.
    pub async fn get<L, F>(
        &self,
        key: u128,
        consistency: Consistency,
        load: L,
    ) -> Result<Found, Error>
    where
        L: Fn(Consistency) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Option<Entry>, db::Error>> + Send + 'static,
    {
        if let Some(copy) = self.near.get(key)
            && copy.serves(consistency)
        {
            self.near_hits.inc();
            return Ok(Found {
                entry: copy.entry.clone(),
                status: Status::Near,
                valid_at: copy.valid_at,
            });
        }
        if consistency == Consistency::Uncached {
            return self.fetch.past(consistency, &load).await;
        }
        let load = Arc::new(load);
        for round in 0..2 {
            let flight = self.flights.board(key, || {
                let (fetch, load) = (self.fetch.clone(), load.clone());
                async move { fetch.run(key, consistency, load).await }
            });
            // The second flight began when the first had ended, and so after this call. What it
            // found in Redis, or loaded to be kept, contains all that was settled by then.
            let is_recent = |found: &Found| round > 0 && found.status != Status::Bypass;
            let is_own = flight.is_own;
            match flight.land().await {
                Some(Ok(found)) if is_own || found.serves(consistency) || is_recent(&found) => {
                    return Ok(found);
                }
                // Others may have asked for more than this one needs.
                Some(Err(error)) if is_own || matches!(error, Error::Overloaded) => {
                    return Err(error);
                }
                Some(_) | None => {}
            }
        }
        self.fetch.past(consistency, &*load).await
    }

    /// What a transaction that changes this item hands to [`super::db::Tx::evict`].
    pub fn eviction(&self, key: u128) -> Eviction {
        let slot = self.fetch.item_slot(key);
        self.eviction_of(slot, Some(key), format!("{}:{key:x}", self.name))
    }

    /// The same for a transaction that changes what any of these lists shows.
    pub fn eviction_of_all(&self) -> Eviction {
        self.eviction_of(self.fetch.scope_slot(), None, format!("{}:*", self.name))
    }

    fn eviction_of(&self, slot: store::Slot, key: Option<u128>, message: String) -> Eviction {
        let (store, repairs) = (self.fetch.store.clone(), self.repairs.clone());
        Eviction { store, slot, near: self.near.clone(), key, message, repairs }
    }
}

/// A key for whatever `question` was asked: the first half of its SHA-256.
pub fn key_of(question: impl fmt::Display) -> u128 {
    let digest = Sha256::digest(question.to_string());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(bytes)
}
