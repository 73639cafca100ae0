//! How a question that the near tier cannot answer is answered.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use rand::RngExt;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{
    STALE_LIFE,
    entry::{Entry, Error, Found, Status},
    near::{Near, Snapshot},
    store::{Fill, Held, LookUp, Slot, State, Store},
};
use crate::platform::{
    db::{self, Consistency, Db, Lsn},
    redis::Unavailable,
    shutdown::Tasks,
};

/// How long it is remembered that there is nothing.
const ABSENT_FRESH: Duration = Duration::from_secs(10);

/// Larger answers are not kept: anybody may ask for any page of the catalogue.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How often to look whether another replica has loaded what is awaited: about as long as a load.
const AWAIT_STEP: Duration = Duration::from_millis(10);

/// How long to await it: longer than a lease, after which one takes over.
const AWAIT_LIMIT: Duration = Duration::from_secs(5);

/// How long a miss waits for its turn to load.
const TURN_WAIT: Duration = Duration::from_secs(1);

/// Lists of an earlier generation are never found again, so they are not kept for long.
const LISTS_STALE_LIFE: Duration = Duration::from_secs(30);

pub(super) enum Kind {
    Items,
    Lists { scope: Slot },
}

pub(super) struct Fetch {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) near: Near,
    pub(super) store: Arc<Store>,
    pub(super) db: Db,
    pub(super) tasks: Tasks,
    pub(super) bulkhead: Arc<Semaphore>,
    pub(super) fresh: Duration,
    pub(super) hits: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) bypasses: IntCounter,
    pub(super) rejected_fills: IntCounter,
    pub(super) loads: IntCounter,
}

/// A look-up under way.
struct Search {
    key: u128,
    slot: Slot,
    /// Proves that a lease is ours.
    token: String,
    before: Snapshot,
    /// How far the log was, at least, before Redis was asked: what it holds contains all of that.
    position: Lsn,
    /// What is loaded to be kept has to contain this much.
    floor: Consistency,
}

impl Fetch {
    /// Asks Redis, and the database if need be.
    pub(super) async fn run<L, F>(
        self: Arc<Self>,
        key: u128,
        consistency: Consistency,
        load: Arc<L>,
    ) -> Result<Found, Error>
    where
        L: Fn(Consistency) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Option<Entry>, db::Error>> + Send + 'static,
    {
        let Some(search) = self.search(key).await else {
            return self.past(consistency, &*load).await;
        };
        let begun = Instant::now();
        while begun.elapsed() < AWAIT_LIMIT {
            // Exponentially distributed (XFetch, VLDB 2015): the dearer the load and the more
            // requests there are, the earlier one of them refreshes.
            let early = -rand::rng().random_range(f64::EPSILON..1.0).ln();
            match self.store.look_up(&search.slot, &search.token, early).await {
                Err(Unavailable) | Ok(LookUp::Closed) => break,
                Ok(LookUp::Held(held)) => return Ok(self.serve(search, held, load)),
                Ok(LookUp::Leased { at_least }) => {
                    self.misses.inc();
                    let loaded = self.load_and_keep(&search, at_least, &*load).await;
                    let Err(error) = loaded else { return loaded };
                    self.store.release(&search.slot, &search.token).await;
                    return match consistency {
                        // Too old to keep may be new enough for this request.
                        Consistency::Latest => Err(error),
                        _ if error.is_unreachable() => self.past(consistency, &*load).await,
                        _ => Err(error),
                    };
                }
                Ok(LookUp::Awaited) => sleep(AWAIT_STEP).await,
            }
        }
        self.past(consistency, &*load).await
    }

    /// Loads for this request alone: no cache can be asked, or none may.
    pub(super) async fn past<L, F>(
        &self,
        consistency: Consistency,
        load: &L,
    ) -> Result<Found, Error>
    where
        L: Fn(Consistency) -> F,
        F: Future<Output = Result<Option<Entry>, db::Error>>,
    {
        self.bypasses.inc();
        let valid_at = match consistency {
            Consistency::Any => Lsn::default(),
            Consistency::AtLeast(lsn) => lsn,
            Consistency::Latest | Consistency::LatestElse(_) | Consistency::Uncached => {
                self.db.position()
            }
        };
        let _turn = self.turn().await?;
        self.loads.inc();
        let entry = load(consistency).await?;
        Ok(Found { entry, status: Status::Bypass, valid_at })
    }

    async fn search(&self, key: u128) -> Option<Search> {
        let (before, position) = (self.near.snapshot(key), self.db.position());
        let token = Uuid::new_v4().to_string();
        let (slot, floor) = match &self.kind {
            Kind::Items => (self.item_slot(key), Consistency::Latest),
            Kind::Lists { scope } => {
                let generation = self.generation(scope).await?;
                let name = format_args!("{}:{:x}:{key:x}", self.name, generation.0);
                (self.store.slot(name), Consistency::AtLeast(generation))
            }
        };
        Some(Search { key, slot, token, before, position, floor })
    }

    /// The position of the last write to what the lists show. `None` while one is under way, and
    /// while nobody can say.
    async fn generation(&self, scope: &Slot) -> Option<Lsn> {
        if let Some(known) = self.store.settled(scope).await.ok()? {
            return known.ok();
        }
        // Redis lost it. Whatever was written before now lies before this.
        let now = self.db.sample_position().await.ok()?;
        let message = format!("{}:*", self.name);
        self.store.settle(scope, "", now, &message).await.ok()?;
        self.store.settled(scope).await.ok()??.ok()
    }

    fn serve<L, F>(self: &Arc<Self>, search: Search, held: Held, load: Arc<L>) -> Found
    where
        L: Fn(Consistency) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Option<Entry>, db::Error>> + Send + 'static,
    {
        let Held { entry, state, fresh_for, lsn } = held;
        let valid_at = search.position.max(lsn);
        let status = if fresh_for.is_zero() {
            self.stale.inc();
            Status::Stale
        } else {
            self.hits.inc();
            self.near.insert(search.key, search.before, entry.clone(), valid_at, fresh_for);
            Status::Hit
        };
        if state == State::Refresh {
            let fetch = self.clone();
            self.tasks.spawn(async move {
                // The lease stays with a refresh that failed, so that the next one waits a little.
                if let Err(error) = fetch.load_and_keep(&search, lsn, &*load).await {
                    tracing::debug!(%error, cache = fetch.name, "not refreshed");
                }
            });
        }
        Found { entry, status, valid_at }
    }

    async fn load_and_keep<L, F>(
        &self,
        search: &Search,
        at_least: Lsn,
        load: &L,
    ) -> Result<Found, Error>
    where
        L: Fn(Consistency) -> F,
        F: Future<Output = Result<Option<Entry>, db::Error>>,
    {
        let turn = self.turn().await?;
        let begun = Instant::now();
        self.loads.inc();
        let entry = load(search.floor).await?;
        drop(turn);
        // Nothing that the lease knew of is missing from a load that began after it.
        let lsn = match search.floor {
            Consistency::AtLeast(generation) => generation,
            _ => at_least.max(search.position),
        };
        let fresh = if entry.is_some() { self.fresh } else { ABSENT_FRESH };
        // Those filled together are not to expire together.
        let fresh = fresh.mul_f64(rand::rng().random_range(0.9..1.0));
        let is_small = entry.as_ref().is_none_or(|entry| entry.body.len() <= MAX_BODY_BYTES);
        if is_small {
            let stale = match self.kind {
                Kind::Items => STALE_LIFE,
                Kind::Lists { .. } => LISTS_STALE_LIFE,
            };
            let (life, cost) = (fresh + stale, begun.elapsed());
            let fill = Fill { entry: entry.as_ref(), lsn, fresh, life, cost };
            match self.store.fill(&search.slot, &search.token, &fill).await {
                Ok(true) => {
                    self.near.insert(search.key, search.before, entry.clone(), lsn, fresh);
                }
                Ok(false) => self.rejected_fills.inc(),
                Err(Unavailable) => {}
            }
        } else {
            self.store.release(&search.slot, &search.token).await;
        }
        Ok(Found { entry, status: Status::Miss, valid_at: lsn })
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        let turn = timeout(TURN_WAIT, self.bulkhead.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or(Error::Overloaded)
    }

    pub(super) fn item_slot(&self, key: u128) -> Slot {
        self.store.slot(format_args!("{}:{key:x}", self.name))
    }

    pub(super) fn scope_slot(&self) -> Slot {
        match &self.kind {
            Kind::Lists { scope } => scope.clone(),
            Kind::Items => self.store.slot(self.name),
        }
    }
}
