//! Events on their way: out of the outbox, into jobs and to those who listen, whatever breaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shoal::{
    platform::{
        events::{self, Event, NewEvent},
        jobs::{self, Failure, Job, Lease, Queue, Registry, Worker},
    },
    state::AppState,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::support::{Fleet, Replica, ask_redis, metric, until};

static QUEUE: Queue = Queue { name: "relay", concurrency: 10 };

/// What the jobs of a test have done.
#[derive(Clone, Default)]
struct Bench {
    runs: Arc<AtomicUsize>,
}

impl Bench {
    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

#[derive(Serialize, Deserialize)]
struct Count {
    event: Uuid,
}

impl Job for Count {
    type State = Bench;
    const KIND: &'static str = "relay.count";
    const QUEUE: &'static Queue = &QUEUE;

    async fn run(self, bench: &Bench, _: &Lease) -> Result<(), Failure> {
        bench.runs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

async fn tell(app: &AppState, count: usize) {
    let mut tx = app.db.begin().await.unwrap();
    for _ in 0..count {
        let data = serde_json::json!({ "n": count });
        let event = NewEvent {
            kind: "thing.happened",
            subject_id: Uuid::now_v7(),
            sequence: 1,
            customer_id: None,
            data: &data,
        };
        events::emit(&mut tx, &event).unwrap();
    }
    tx.commit().await.unwrap();
}

/// A worker beside a replica, which polls this often.
struct Running {
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

impl Running {
    fn beside(replica: &Replica, bench: &Bench, poll: Duration) -> Self {
        let app = replica.app.clone();
        let registry = Registry::new().once(|event: &Event| {
            (event.kind == "thing.happened").then_some(Count { event: event.id })
        });
        let lease = Duration::from_secs(30);
        let config = jobs::Config { poll, lease, retention: Duration::from_secs(60) };
        let stores = (app.db.clone(), app.redis.clone());
        let worker = Worker::new(bench.clone(), stores, registry, config, &app.metrics).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let worker = tokio::spawn(async move {
            worker.run(&app.tasks, stopped.cancelled(), Duration::from_secs(5)).await;
        });
        Self { stop, worker }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.worker.await.unwrap();
    }
}

const SOON: Duration = Duration::from_millis(50);
/// No test lasts that long.
const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn every_event_becomes_one_job_however_many_relays_there_are() {
    let fleet = Fleet::of(3).start().await;
    let bench = Bench::default();
    let workers: Vec<_> =
        fleet.replicas.iter().map(|replica| Running::beside(replica, &bench, SOON)).collect();
    for round in 0..20 {
        tell(&fleet.replicas[round % 3].app, 50).await;
    }
    until(async || bench.runs() >= 1_000).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(bench.runs(), 1_000);
    let completed = "select count(*) from jobs where state = 'completed'";
    assert_eq!(fleet.database.number(completed).await, 1_000);
    assert_eq!(fleet.database.number("select count(*) from outbox").await, 0);
}

/// What another relay is about to pass on is left to it.
#[tokio::test]
async fn a_relay_waits_for_nobody() {
    let fleet = Fleet::of(1).start().await;
    let bench = Bench::default();
    tell(fleet.app(), 1).await;
    let mut other = fleet.database.connect().await;
    sqlx::Executor::execute(&mut other, "begin; select from outbox for update").await.unwrap();
    tell(fleet.app(), 1).await;
    let worker = Running::beside(&fleet.replicas[0], &bench, SOON);
    until(async || bench.runs() == 1).await;
    sqlx::Executor::execute(&mut other, "rollback").await.unwrap();
    until(async || bench.runs() == 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_is_woken_by_what_another_process_commits() {
    let fleet = Fleet::of(2).start().await;
    let bench = Bench::default();
    let worker = Running::beside(&fleet.replicas[0], &bench, NEVER);
    // The first looks for work by themselves, as every worker does when it begins.
    for told in 1..=3 {
        tell(&fleet.replicas[1].app, 1).await;
        until(async || bench.runs() == told).await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn without_redis_events_are_found_and_none_is_lost() {
    let mut fleet = Fleet::of(2).own_redis().start().await;
    let bench = Bench::default();
    let worker = Running::beside(&fleet.replicas[0], &bench, SOON);
    tell(&fleet.replicas[1].app, 10).await;
    until(async || bench.runs() == 10).await;

    fleet.redis.as_mut().unwrap().process().kill();
    tell(&fleet.replicas[1].app, 10).await;
    until(async || bench.runs() == 20).await;
    worker.stop().await;
}

/// The ids of the events in the stream for other services.
async fn streamed(fleet: &Fleet) -> Vec<Uuid> {
    let key = fleet.app().redis.key("stream:events");
    type Entries = Vec<(String, Vec<String>)>;
    let redis = fleet.redis.as_ref().unwrap();
    let entries: Entries = ask_redis(redis, &format!("XRANGE {key} - +")).await;
    let id = |text: &str| -> Uuid {
        let event: serde_json::Value = serde_json::from_str(text).unwrap();
        event["id"].as_str().unwrap().parse().unwrap()
    };
    entries.iter().map(|(_, fields)| id(&fields[1])).collect()
}

async fn written(fleet: &Fleet) -> Vec<Uuid> {
    let sql = "select id from events order by id";
    sqlx::query_scalar(sql).fetch_all(&mut fleet.database.connect().await).await.unwrap()
}

const UNSTREAMED: &str = "select count(*) from unstreamed_events";

#[tokio::test]
async fn what_redis_did_not_take_follows_in_order_and_before_what_is_newer() {
    let mut fleet = Fleet::of(2).own_redis().start().await;
    let bench = Bench::default();
    let workers: Vec<_> =
        fleet.replicas.iter().map(|replica| Running::beside(replica, &bench, SOON)).collect();
    fleet.redis.as_mut().unwrap().process().kill();
    // More than one transaction appends.
    for round in 0..12 {
        tell(&fleet.replicas[round % 2].app, 60).await;
        until(async || bench.runs() == 60 * (round + 1)).await;
    }
    until(async || fleet.database.number(UNSTREAMED).await == 720).await;
    fleet.redis.as_mut().unwrap().process().restart().unwrap();
    let mut told = 720;
    until(async || {
        tell(fleet.app(), 5).await;
        told += 5;
        until(async || bench.runs() == told).await;
        fleet.database.number(UNSTREAMED).await == 0
    })
    .await;
    tell(fleet.app(), 5).await;
    until(async || bench.runs() == told + 5).await;
    for worker in workers {
        worker.stop().await;
    }
    let mut once = streamed(&fleet).await;
    // Those of an answer that got lost are there twice.
    let mut seen = std::collections::HashSet::new();
    once.retain(|id| seen.insert(*id));
    let written = written(&fleet).await;
    assert_eq!(once.len(), written.len());
    let differs = (0..720).find(|place| once[*place] != written[*place]);
    assert_eq!(differs, None, "the first that is out of order");
    // Of what came later two relays may have had some each.
    assert!(written[720..].iter().all(|id| seen.contains(id)));
}

#[tokio::test]
async fn a_full_redis_refuses_the_stream_for_a_while() {
    let fleet = Fleet::of(1).own_redis().start().await;
    let bench = Bench::default();
    let worker = Running::beside(&fleet.replicas[0], &bench, SOON);
    fleet.redis_command("CONFIG SET maxmemory 1").await;
    tell(fleet.app(), 10).await;
    until(async || bench.runs() == 10).await;
    until(async || fleet.database.number(UNSTREAMED).await == 10).await;
    fleet.redis_command("CONFIG SET maxmemory 0").await;
    until(async || fleet.database.number(UNSTREAMED).await == 0).await;
    worker.stop().await;
    assert_eq!(streamed(&fleet).await, written(&fleet).await);
}

#[tokio::test]
async fn no_more_is_kept_for_the_stream_than_it_has_room_for() {
    let fleet = Fleet::one().await;
    let mut connection = fleet.database.connect().await;
    let many = "insert into unstreamed_events
        select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid
        from generate_series(1, 100100) n";
    sqlx::query(many).execute(&mut connection).await.unwrap();
    // With nobody who appends them.
    let turn = "select pg_advisory_lock('unstreamed_events'::regclass::int, 0)";
    sqlx::query(turn).execute(&mut connection).await.unwrap();
    let bench = Bench::default();
    let worker = Running::beside(&fleet.replicas[0], &bench, SOON);
    until(async || metric(&fleet, "events_unstreamed") == 100_000.0).await;
    worker.stop().await;
    assert_eq!(fleet.database.number(UNSTREAMED).await, 100_000);
    let oldest = "select count(*) from unstreamed_events
        where event_id < '00000000-0000-7000-8000-000000000065'";
    assert_eq!(fleet.database.number(oldest).await, 0, "the oldest went");
}

#[tokio::test]
async fn other_services_read_cloud_events_from_a_stream() {
    let fleet = Fleet::of(1).own_redis().start().await;
    let bench = Bench::default();
    let worker = Running::beside(&fleet.replicas[0], &bench, SOON);
    tell(fleet.app(), 1).await;
    until(async || bench.runs() == 1).await;
    worker.stop().await;
    let key = fleet.app().redis.key("stream:events");
    type Entries = Vec<(String, Vec<String>)>;
    let redis = fleet.redis.as_ref().unwrap();
    let entries: Entries = ask_redis(redis, &format!("XRANGE {key} - +")).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].1[0], "event");
    let event: serde_json::Value = serde_json::from_str(&entries[0].1[1]).unwrap();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["type"], "thing.happened");
    assert_eq!(event["data"], serde_json::json!({ "n": 1 }));
    for name in ["id", "source", "subject", "time"] {
        assert!(event[name].is_string(), "{name}: {event}");
    }
}
