//! The coherent cache by itself: what may be kept, by whom, and who has to ask again.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prometheus::IntGauge;
use shoal::platform::{
    breaker::Breaker,
    cache::{Burial, Cache, Caches, Config, Entry, Error, Found, Status},
    db::{self, Consistency, Lsn},
    metrics::Metrics,
    redis::{self, Redis},
    shutdown::Tasks,
};
use tokio::{sync::oneshot, task::JoinSet};

use crate::support::{Fleet, topology, unique, until};

/// Caches as so many replicas have them, of one kind, with counted loads.
struct Rig {
    fleet: Fleet,
    caches: Vec<Cache>,
    loads: Arc<AtomicUsize>,
}

const KEY: u128 = 7;

impl Rig {
    async fn of(replicas: usize, fresh: Duration) -> Self {
        Self::with(Fleet::one().await, &topology().redis_url, replicas, fresh)
    }

    fn with(fleet: Fleet, redis_url: &str, replicas: usize, fresh: Duration) -> Self {
        let prefix = unique("cache");
        let cache = |_| {
            let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::default());
            let config = redis::Config {
                urls: vec![redis_url.to_owned().into()],
                prefix: prefix.clone(),
                timeout: Duration::from_secs(2),
            };
            let breaker = Breaker::new(IntGauge::new("breaker", "breaker").unwrap());
            let redis = Redis::new(&config, &metrics, breaker, &tasks).unwrap();
            let near_life = Duration::from_secs(3_600);
            let config = Config { near_life, near_bytes: 1 << 20, loads: 4 };
            let db = fleet.app().db.clone();
            Caches::new(&config, redis, db, &metrics, &tasks).unwrap().items("thing", fresh)
        };
        let caches = (0..replicas).map(cache).collect();
        Self { fleet, caches, loads: Arc::default() }
    }

    /// Asks one replica, which loads `body` if nobody has it.
    async fn get(&self, replica: usize, body: &'static str) -> Found {
        self.ask(replica, Consistency::Any, body).await
    }

    async fn ask(&self, replica: usize, consistency: Consistency, body: &'static str) -> Found {
        let loads = self.loads.clone();
        let load = move |_| {
            loads.fetch_add(1, Ordering::Relaxed);
            async move { Ok(Some(entry(body))) }
        };
        self.caches[replica].get(KEY, consistency, load).await.unwrap()
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::Relaxed)
    }

    async fn bury(&self, replica: usize) -> Burial {
        Burial::of(vec![self.caches[replica].eviction(KEY)]).await
    }
}

fn entry(body: &'static str) -> Entry {
    Entry { meta: "\"1\"".to_owned(), body: Bytes::from_static(body.as_bytes()) }
}

fn body(found: &Found) -> &str {
    std::str::from_utf8(&found.entry.as_ref().unwrap().body).unwrap()
}

/// Long enough for a whole test.
const LONG: Duration = Duration::from_secs(300);

/// After every commit there is.
const END: Lsn = Lsn(u64::MAX >> 1);

#[tokio::test]
async fn what_one_replica_loads_the_others_find() {
    let rig = Rig::of(3, LONG).await;
    assert_eq!(rig.get(0, "a").await.status, Status::Miss);
    for replica in [1, 2] {
        let found = rig.get(replica, "b").await;
        assert_eq!((body(&found), found.status), ("a", Status::Hit));
    }
    // A copy is kept once evictions are heard of.
    until(async || rig.get(0, "b").await.status == Status::Near).await;
    assert_eq!(rig.loads(), 1);
}

#[tokio::test]
async fn a_cold_key_is_loaded_once_by_the_fleet() {
    let rig = Arc::new(Rig::of(3, LONG).await);
    let (started, has_started) = oneshot::channel::<()>();
    let gate = Arc::new(tokio::sync::Mutex::new(Some(has_started)));
    let mut requests = JoinSet::new();
    for request in 0..900 {
        let (rig, gate, loads) = (rig.clone(), gate.clone(), rig.loads.clone());
        requests.spawn(async move {
            let load = move |_| {
                loads.fetch_add(1, Ordering::Relaxed);
                let gate = gate.clone();
                // The first load waits until all the others have asked.
                async move {
                    if let Some(gate) = gate.lock().await.take() {
                        let _ = gate.await;
                    }
                    Ok(Some(entry("once")))
                }
            };
            rig.caches[request % 3].get(KEY, Consistency::Any, load).await.unwrap()
        });
    }
    until(async || rig.loads() > 0).await;
    started.send(()).unwrap();
    for found in requests.join_all().await {
        assert_eq!(body(&found), "once");
    }
    assert_eq!(rig.loads(), 1);
}

#[tokio::test]
async fn a_slow_reader_does_not_bring_back_what_a_write_replaced() {
    let rig = Rig::of(2, LONG).await;
    let (loaded, has_loaded) = oneshot::channel();
    let (may_go_on, go_on) = oneshot::channel::<()>();
    let signals = Arc::new(std::sync::Mutex::new(Some((loaded, go_on))));
    let slow = move |_| {
        let (loaded, go_on) = signals.lock().unwrap().take().unwrap();
        async move {
            let old = entry("old");
            loaded.send(()).unwrap();
            go_on.await.unwrap();
            Ok(Some(old))
        }
    };
    let cache = rig.caches[0].clone();
    let reader = tokio::spawn(async move { cache.get(KEY, Consistency::Any, slow).await });
    has_loaded.await.unwrap();
    rig.bury(1).await.settle(Lsn(1)).await;
    may_go_on.send(()).unwrap();
    assert_eq!(body(&reader.await.unwrap().unwrap()), "old", "it began before");
    for replica in [0, 1] {
        assert_eq!(body(&rig.get(replica, "new").await), "new");
    }
    assert_eq!(rig.loads(), 1, "the new value was kept");
}

#[tokio::test]
async fn the_latest_is_not_taken_from_a_load_that_began_before() {
    let rig = Rig::of(1, LONG).await;
    let (loaded, has_loaded) = oneshot::channel();
    let (may_go_on, go_on) = oneshot::channel::<()>();
    let signals = Arc::new(std::sync::Mutex::new(Some((loaded, go_on))));
    let slow = move |_| {
        let (loaded, go_on) = signals.lock().unwrap().take().unwrap();
        async move {
            loaded.send(()).unwrap();
            go_on.await.unwrap();
            Ok(Some(entry("old")))
        }
    };
    let mut reader = pin!(rig.caches[0].get(KEY, Consistency::Any, slow));
    assert!(futures::poll!(reader.as_mut()).is_pending());
    has_loaded.await.unwrap();
    rig.bury(0).await.settle(Lsn(1)).await;
    // It has joined the load that is under way.
    let mut asked = pin!(rig.ask(0, Consistency::Latest, "new"));
    assert!(futures::poll!(asked.as_mut()).is_pending());
    may_go_on.send(()).unwrap();
    let (read, asked) = tokio::join!(reader, asked);
    assert_eq!((body(&read.unwrap()), body(&asked)), ("old", "new"));
}

#[tokio::test]
async fn what_a_flush_forgot_is_not_filled_from_before() {
    let fleet = Fleet::of(1).own_redis().start().await;
    let url = fleet.redis.as_ref().unwrap().url();
    let rig = Rig::with(fleet, &url, 2, LONG);
    let client = deadpool_redis::redis::Client::open(url).unwrap();
    let flush = move |_| {
        let client = client.clone();
        async move {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let flush = deadpool_redis::redis::cmd("FLUSHALL");
            flush.exec_async(&mut connection).await.unwrap();
            Ok(Some(entry("old")))
        }
    };
    rig.caches[0].get(KEY, Consistency::Any, flush).await.unwrap();
    let found = rig.get(1, "new").await;
    assert_eq!((body(&found), found.status), ("new", Status::Miss));
}

#[tokio::test]
async fn nothing_is_served_or_kept_while_a_write_is_under_way() {
    let rig = Rig::of(2, LONG).await;
    rig.get(0, "old").await;
    let burial = rig.bury(1).await;
    for replica in [1, 0, 1] {
        until(async || rig.get(replica, "now").await.status != Status::Near).await;
        let found = rig.get(replica, "now").await;
        assert_eq!((body(&found), found.status), ("now", Status::Bypass));
    }
    burial.settle(Lsn(5)).await;
    assert_eq!(rig.get(0, "new").await.status, Status::Miss);
    assert_eq!(body(&rig.get(1, "newer").await), "new");
}

#[tokio::test]
async fn no_writer_opens_what_another_has_buried() {
    for is_in_order in [true, false] {
        let rig = Rig::of(2, LONG).await;
        let (one, two) = (rig.bury(0).await, rig.bury(1).await);
        let (first, second) = if is_in_order { (one, two) } else { (two, one) };
        first.settle(Lsn(5)).await;
        assert_eq!(rig.get(0, "between").await.status, Status::Bypass);
        second.settle(Lsn(9)).await;
        assert_eq!(rig.get(0, "new").await.status, Status::Miss);
        assert_eq!(rig.get(1, "other").await.status, Status::Hit);
    }
}

#[tokio::test]
async fn readers_of_the_latest_share_what_is_kept() {
    let rig = Arc::new(Rig::of(2, LONG).await);
    let mut readers = JoinSet::new();
    for reader in 0..400 {
        let rig = rig.clone();
        readers.spawn(async move { rig.ask(reader % 2, Consistency::Latest, "once").await });
    }
    for found in readers.join_all().await {
        assert_eq!(body(&found), "once");
    }
    assert_eq!(rig.loads(), 1);
}

#[tokio::test]
async fn an_eviction_that_comes_late_takes_out_what_is_older() {
    let rig = Rig::of(2, LONG).await;
    rig.get(0, "old").await;
    // As by a write that could not reach Redis before: settled without having been buried.
    let eviction = rig.caches[1].eviction(KEY);
    eviction.repeat(END).await;
    until(async || rig.get(0, "new").await.status != Status::Near).await;
    let found = rig.get(1, "newer").await;
    assert_eq!(body(&found), "new");
    // Once more, and it is known already.
    eviction.repeat(END).await;
    eviction.repeat(Lsn(1)).await;
    assert_eq!(body(&rig.get(1, "newest").await), "new");
}

#[tokio::test]
async fn that_there_is_nothing_is_remembered_as_well() {
    let rig = Rig::of(2, LONG).await;
    let ask = async |replica: usize| {
        let loads = rig.loads.clone();
        let load = move |_| {
            loads.fetch_add(1, Ordering::Relaxed);
            async { Ok(None) }
        };
        rig.caches[replica].get(KEY, Consistency::Any, load).await.unwrap()
    };
    for replica in [0, 1, 0, 1] {
        assert!(ask(replica).await.entry.is_none());
    }
    assert_eq!(rig.loads(), 1);
    rig.bury(0).await.settle(Lsn(5)).await;
    until(async || rig.get(1, "made").await.entry.is_some()).await;
}

#[tokio::test]
async fn what_cannot_be_loaded_is_not_kept_and_tried_again_at_once() {
    let rig = Rig::of(2, LONG).await;
    let failing = |_| async { Err(db::Error::Aborted) };
    for replica in [0, 1] {
        let failed = rig.caches[replica].get(KEY, Consistency::Any, failing).await;
        assert!(matches!(failed, Err(Error::Load(_))));
    }
    assert_eq!(rig.get(0, "found").await.status, Status::Miss);
}

#[tokio::test]
async fn an_expired_entry_is_served_while_one_replica_loads_it_anew() {
    let rig = Arc::new(Rig::of(3, Duration::from_millis(40)).await);
    rig.get(0, "old").await;
    until(async || rig.get(1, "new").await.status == Status::Stale).await;
    // Whoever found it stale first loads it in the background; everybody else still gets it.
    until(async || body(&rig.get(2, "new").await) == "new").await;
}

#[tokio::test]
async fn a_stale_entry_is_loaded_by_one_however_slow_that_is() {
    let rig = Arc::new(Rig::of(3, Duration::from_millis(40)).await);
    rig.get(0, "old").await;
    let stale = async || {
        let loads = rig.loads.clone();
        let load = move |_| {
            loads.fetch_add(1, Ordering::Relaxed);
            // Longer than all that follows takes.
            async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(Some(entry("slow")))
            }
        };
        rig.caches[1].get(KEY, Consistency::Any, load).await.unwrap()
    };
    until(async || stale().await.status == Status::Stale).await;
    let mut requests = JoinSet::new();
    for request in 0..300 {
        let rig = rig.clone();
        requests.spawn(async move { rig.get(request % 3, "doubled").await.status });
    }
    for status in requests.join_all().await {
        assert_eq!(status, Status::Stale);
    }
    assert_eq!(rig.loads(), 2, "one to fill, one to refresh");
}

#[tokio::test]
async fn while_the_database_is_away_stale_entries_are_served() {
    let rig = Rig::of(1, Duration::from_millis(40)).await;
    rig.get(0, "old").await;
    for _ in 0..100 {
        let away = |_| async { Err(db::Error::Unreachable("primary", "gone".to_owned())) };
        let found = rig.caches[0].get(KEY, Consistency::Any, away).await.unwrap();
        assert_eq!(body(&found), "old");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(rig.get(0, "new").await.status, Status::Stale);
}

#[tokio::test]
async fn a_copy_is_not_served_to_whoever_has_to_see_more() {
    let rig = Rig::of(1, LONG).await;
    until(async || rig.get(0, "a").await.status == Status::Near).await;
    assert_eq!(rig.ask(0, Consistency::AtLeast(END), "b").await.status, Status::Hit);
    assert_eq!(rig.ask(0, Consistency::Latest, "b").await.status, Status::Hit);
    let past = rig.ask(0, Consistency::Uncached, "b").await;
    assert_eq!((body(&past), past.status), ("b", Status::Bypass));
    assert_eq!(body(&rig.get(0, "c").await), "a");
}

#[tokio::test]
async fn misses_past_the_caches_leave_the_database_some_room() {
    let mut fleet = Fleet::of(1).own_redis().start().await;
    let url = fleet.redis.as_ref().unwrap().url();
    fleet.redis.as_mut().unwrap().process().stop();
    let rig = Arc::new(Rig::with(fleet, &url, 1, LONG));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut requests = JoinSet::new();
    for key in 0..40 {
        let (rig, running, most) = (rig.clone(), running.clone(), most.clone());
        requests.spawn(async move {
            let load = move |_| {
                let (running, most) = (running.clone(), most.clone());
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(None)
                }
            };
            rig.caches[0].get(key, Consistency::Any, load).await.is_ok()
        });
    }
    assert!(requests.join_all().await.into_iter().all(|is_ok| is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert!(rig.fleet.app().health.is_started());
}
