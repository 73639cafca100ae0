//! Live streams of events: from any replica, without loss, and without end only while they may.

use std::time::Duration;

use lab::fault::{Fault, FaultProxy};
use serde_json::json;
use shoal::{
    platform::{
        breaker::Breakers,
        events::{self, NewEvent},
        jobs::{self, Registry, Worker},
        metrics::Metrics,
        redis::{self, Redis},
    },
    state::AppState,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Block, Client, Cluster, Fleet, Live, metric, order, unique, until};

async fn place(client: &Client, product: Uuid) -> String {
    let placed = client.place_order(&unique("key"), &[(product, 1)]).await.expect(201);
    placed["id"].as_str().unwrap().to_owned()
}

fn created(orders: &[&String]) -> Vec<(String, String)> {
    orders.iter().map(|order| ("order.created".to_owned(), (*order).clone())).collect()
}

#[tokio::test]
async fn an_order_is_told_of_on_every_replica_once_and_to_its_owner_alone() {
    let fleet = Fleet::of(2).with_workers().start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let (owner, other) = (fleet.client.register().await, fleet.client.register().await);
    let on = |client: &Client, replica: usize| {
        client.with_addresses(vec![fleet.replicas[replica].address])
    };
    let mut streams =
        [Live::open(&on(&owner, 0), None).await, Live::open(&on(&owner, 1), None).await];
    let mut foreign = Live::open(&on(&other, 1), None).await;
    let mut orders = Vec::new();
    for replica in [0, 1, 0, 1] {
        place(&on(&other, replica), product).await;
        orders.push(place(&on(&owner, replica), product).await);
    }
    let path = format!("/v1/orders/{}/cancel", orders[0]);
    owner.post(&path, &json!({})).await.expect(200);
    for stream in &mut streams {
        let mut told = stream.take(5).await;
        let last = told.pop().unwrap();
        // Relays do not keep the order of what happens at about the same time.
        told.sort_unstable();
        let mut expected = created(&orders.iter().collect::<Vec<_>>());
        expected.sort_unstable();
        assert_eq!(told, expected);
        assert_eq!(last, ("order.cancelled".to_owned(), orders[0].clone()));
    }
    let told = foreign.take(4).await;
    assert!(told.iter().all(|(_, id)| !orders.contains(id)));
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed() {
    let fleet = Fleet::of(2).with_workers().start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let (owner, other) = (fleet.client.register().await, fleet.client.register().await);
    let mut stream = Live::open(&owner, None).await;
    let start = stream.last_id.clone();
    let (a, b) = (place(&owner, product).await, place(&owner, product).await);
    stream.take(2).await;
    let seen = stream.last_id.clone();
    drop(stream);
    place(&other, product).await;
    let (c, d) = (place(&owner, product).await, place(&owner, product).await);

    let mut stream = Live::open(&owner, Some(&seen)).await;
    assert_eq!(stream.take(2).await, created(&[&c, &d]));
    let e = place(&owner, product).await;
    assert_eq!(stream.take(1).await, created(&[&e]), "and then what comes");
    // With nothing seen but the beginning; with the id of an event, as the trail has it.
    let mut all = Live::open(&owner, Some(&start)).await;
    assert_eq!(all.take(5).await, created(&[&a, &b, &c, &d, &e]));
    let trail = owner.get(&format!("/v1/orders/{d}/events")).await.expect(200);
    let id = trail["data"][0]["id"].as_str().unwrap();
    let mut some = Live::open(&owner, Some(id)).await;
    let told = some.take(4).await;
    assert!(!told.contains(&created(&[&d])[0]), "{told:?}");
    // Somebody else's position does not show anything of theirs.
    let mut foreign = Live::open(&other, Some(id)).await;
    assert_ne!(foreign.take(1).await, created(&[&d]));
    let reply = Live::try_open(&owner, Some("nonsense")).await.err().unwrap();
    reply.expect_problem(400, "invalid_last_event_id");
    // That of 1970, by an id that is no event's and by one that is.
    let long_ago = "00000000-0000-7000-8000-000000000000";
    let reply = Live::try_open(&owner, Some(long_ago)).await.err().unwrap();
    reply.expect_problem(400, "last_event_id_too_old");
    let age = "update events set created_at = now() - interval '25 hours' where id = $1";
    let age = sqlx::query(age).bind(Uuid::parse_str(id).unwrap());
    age.execute(&mut fleet.database.connect().await).await.unwrap();
    let reply = Live::try_open(&owner, Some(id)).await.err().unwrap();
    reply.expect_problem(400, "last_event_id_too_old");
}

/// Where many come back at once, each of which asks the primary.
#[tokio::test]
async fn those_who_come_back_leave_connections_to_those_who_write() {
    let fleet = Fleet::of(1)
        .set("SHOAL_DB_POOL_SIZE", "2")
        .set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "3000")
        .start()
        .await;
    let owner = fleet.client.register().await;
    let mut holder = fleet.database.connect().await;
    sqlx::raw_sql("begin; lock table events").execute(&mut holder).await.unwrap();
    let mut coming = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let owner = owner.clone();
        coming.spawn(async move { Live::try_open(&owner, None).await.is_ok() });
    }
    until(async || metric(&fleet, "event_streams") == 4.0).await;
    // They wait for the table, or for each other; a writer does not wait for them.
    fleet.app().db.primary().await.unwrap();
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    drop(holder);
    coming.join_all().await;
}

#[tokio::test]
async fn more_is_caught_up_with_than_one_page() {
    let fleet = Fleet::of(1).start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let owner = fleet.client.register().await;
    let start = Live::open(&owner, None).await.last_id;
    let mut orders = Vec::new();
    for _ in 0..130 {
        orders.push(place(&owner, product).await);
    }
    let mut stream = Live::open(&owner, Some(&start)).await;
    assert_eq!(stream.take(130).await, created(&orders.iter().collect::<Vec<_>>()));
}

#[tokio::test]
async fn without_redis_nothing_is_lost() {
    let mut fleet = Fleet::of(2).own_redis().with_workers().start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let owner = fleet.client.register().await;
    let on = |replica: usize| owner.with_addresses(vec![fleet.replicas[replica].address]);
    let (here, there) = (on(0), on(1));
    let mut same = Live::open(&here, None).await;
    let mut other = Live::open(&there, None).await;
    let first = place(&here, product).await;
    assert_eq!(same.take(1).await, created(&[&first]));
    assert_eq!(other.take(1).await, created(&[&first]));
    let whole = same.last_id.clone();

    let is_lost = async |fleet: &Fleet| {
        // Only then does a stream begin without an id.
        let stream = Live::open(&here, None).await;
        drop(stream);
        fleet.app().redis.is_degraded()
    };
    fleet.redis.as_mut().unwrap().process().kill();
    until(async || is_lost(&fleet).await).await;
    let second = place(&here, product).await;
    assert_eq!(same.take(1).await, created(&[&second]), "by this process itself");
    let resumed = Live::open(&there, Some(&whole)).await.take(1).await;
    assert_eq!(resumed, created(&[&second]), "from the database");
    assert_eq!(same.last_id, whole, "others may have been missed: no place to come back to");

    fleet.redis.as_mut().unwrap().process().restart().unwrap();
    assert_eq!(other.take(1).await, created(&[&second]), "looked for once Redis is back");
    let third = place(&there, product).await;
    assert_eq!(same.take(1).await, created(&[&third]));
    assert_eq!(other.take(1).await, created(&[&third]));
}

/// A worker whose own way to Redis breaks, while the replicas hear from theirs and miss nothing that
/// they could know of.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_could_not_tell_is_looked_for() {
    let fleet = Fleet::of(2).own_redis().start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let owner = fleet.client.register().await;
    let on = |replica: usize| owner.with_addresses(vec![fleet.replicas[replica].address]);
    let (here, there) = (on(0), on(1));
    let url = fleet.redis.as_ref().unwrap().url();
    let (_, port) = url.rsplit_once(':').unwrap();
    let way = FaultProxy::before(port.parse().unwrap()).unwrap();
    let app = fleet.app().clone();
    let (metrics, poll) = (Metrics::new().unwrap(), Duration::from_millis(50));
    let config = redis::Config {
        urls: vec![format!("redis://127.0.0.1:{}", way.port()).into()],
        prefix: fleet.database.name.clone(),
        timeout: Duration::from_millis(200),
    };
    let breakers = Breakers::new(&metrics).unwrap();
    let redis = Redis::new(&config, &metrics, breakers.named("redis"), &app.tasks).unwrap();
    let (lease, retention) = (Duration::from_secs(30), Duration::from_secs(60));
    let config = jobs::Config { poll, lease, retention };
    let stores = (app.db.clone(), redis);
    let registry = Registry::<AppState>::new();
    let worker = Worker::new(app.clone(), stores, registry, config, &metrics).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let tasks = app.tasks.clone();
    let worker = tokio::spawn(async move {
        worker.run(&tasks, stopped.cancelled(), Duration::from_secs(5)).await;
    });

    let mut stream = Live::open(&there, None).await;
    let first = place(&here, product).await;
    assert_eq!(stream.take(1).await, created(&[&first]), "by the worker");
    way.set(Fault::Drop).unwrap();
    let second = place(&here, product).await;
    until(async || fleet.database.number("select count(*) from outbox").await == 0).await;
    way.clear().unwrap();
    assert_eq!(stream.take(1).await, created(&[&second]), "told of nowhere, and found");
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn a_draining_replica_ends_its_streams_in_order() {
    let mut fleet = Fleet::of(1).start().await;
    let owner = fleet.client.register().await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Live::open(&owner, None).await);
    }
    fleet.replicas[0].stop().await;
    for stream in &mut streams {
        // A connection that is cut would be an error instead.
        assert!(matches!(stream.block().await, Some(Block::Quiet)), "when to come back");
        assert!(stream.block().await.is_none());
    }
}

#[tokio::test]
async fn there_are_only_so_many_streams() {
    let builder = Fleet::of(1).set("SHOAL_STREAMS_MAX", "3").set("SHOAL_STREAMS_MAX_PER_USER", "2");
    let fleet = builder.start().await;
    let (one, other) = (fleet.client.register().await, fleet.client.register().await);
    let first = Live::open(&one, None).await;
    let _second = Live::open(&one, None).await;
    let refused = Live::try_open(&one, None).await.err().unwrap();
    refused.expect_problem(429, "too_many_streams");
    assert!(!refused.header("retry-after").is_empty());
    let _third = Live::open(&other, None).await;
    let refused = Live::try_open(&other, None).await.err().unwrap();
    refused.expect_problem(503, "overloaded");
    assert_eq!(metric(&fleet, "event_streams"), 3.0);
    drop(first);
    until(async || Live::try_open(&other, None).await.is_ok()).await;
    fleet.client.get("/v1/events/stream").await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let fleet = Fleet::of(2).start().await;
    let customer = fleet.client.register().await;
    let stays = fleet.client.register().await;
    let on = |replica: usize| customer.with_addresses(vec![fleet.replicas[replica].address]);
    let mut stream = Live::open(&on(0), None).await;
    let _other = Live::open(&stays.with_addresses(vec![fleet.replicas[0].address]), None).await;
    assert_eq!(on(1).post("/v1/auth/logout", &json!({})).await.status, 204);
    assert!(stream.next().await.is_none());
    assert_eq!(metric(&fleet, "event_streams"), 1.0, "the other one goes on");
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let fleet = Fleet::of(1).set("SHOAL_ACCESS_TOKEN_SECS", "2").start().await;
    let mut stream = Live::open(&fleet.client.register().await, None).await;
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let fleet = Fleet::of(1).start().await;
    let owner = fleet.client.register().await;
    let mut silent = TcpStream::connect(fleet.replicas[0].address).await.unwrap();
    let (token, path) = (owner.token(), "/v1/events/stream");
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    silent.write_all(head.as_bytes()).await.unwrap();
    until(async || metric(&fleet, "event_streams") == 1.0).await;
    // More than the buffers of a connection take.
    let data = json!({ "filling": "x".repeat(60_000) });
    for sequence in 1..=500 {
        let event = NewEvent {
            kind: "order.filled",
            subject_id: Uuid::nil(),
            sequence,
            customer_id: Some(owner.user_id),
            data: &data,
        };
        let mut tx = fleet.app().db.begin().await.unwrap();
        events::emit(&mut tx, &event).unwrap();
        tx.commit().await.unwrap();
    }
    until(async || metric(&fleet, "event_streams") == 0.0).await;
    assert_eq!(metric(&fleet, "event_streams_ended_total{reason=\"slow\"}"), 1.0);
}

#[tokio::test]
async fn nginx_lets_a_stream_through_and_waits_for_its_heartbeat() {
    let cluster = Cluster::start(2, &[]).await;
    let product = cluster.admin().await.create_product(10, 100).await;
    let owner = cluster.client.register().await;
    let mut stream = Live::open(&owner, None).await;
    assert!(matches!(stream.block().await, Some(Block::Quiet)), "a comment, after a while");
    // There is no worker: of the two that place an order, one has the stream.
    for replica in 0..2 {
        let direct = owner.with_addresses(vec![cluster.address(replica)]);
        let body = order(&[(product, 1)]);
        direct.post_with_key("/v1/orders", &unique("key"), &body).await.expect(201);
    }
    assert_eq!(stream.take(1).await[0].0, "order.created");
}

/// Kilobytes of memory that a process holds.
fn resident(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn an_open_stream_takes_little_memory() {
    let settings = [("SHOAL_STREAMS_MAX_PER_USER", "2000"), ("SHOAL_MAX_CONNECTIONS_PER_IP", "0")];
    let mut cluster = Cluster::start(1, &settings).await;
    let owner = cluster.only(0).register().await;
    let pid = cluster.replicas[0].process().pid();
    let mut streams = Vec::new();
    let mut grown = Vec::new();
    for count in [500, 1_000] {
        for _ in 0..count {
            streams.push(Live::open(&owner, None).await);
        }
        grown.push(resident(pid));
    }
    // 24 as it is built for tests; most of that are the buffers of the connection.
    let each = (grown[1] - grown[0]) / 1_000;
    assert!(each < 28, "{each} kB each, {grown:?}");
}
