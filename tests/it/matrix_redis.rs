//! The failure matrix: Redis is refused, slow, silent, empty, full, or somewhere else.

use std::time::{Duration, Instant};

use lab::{
    fault::{Fault, FaultProxy},
    redis::Redis,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    auth::walk_through,
    support::{Client, Fleet, ask_redis, metric, metric_of, own_redis, topology, until},
};

const LEFT_ALONE: &str = "circuit_breaker_state{target=\"redis\"}";
const LOCAL: &str = "rate_limit_decisions_total{decision=\"local_allowed\",policy=\"default\"}";
const BYPASS: &str = "cache_requests_total{cache=\"product\",result=\"bypass\",tier=\"redis\"}";
const LOADS: &str = "cache_requests_total{cache=\"product\",result=\"load\",tier=\"database\"}";

/// As many as the breaker lets fail.
const FIRST_CALLS: f64 = 3.0;

fn way_to_redis() -> FaultProxy {
    let (_, port) = topology().redis_url.rsplit_once(':').unwrap();
    FaultProxy::before(port.parse().unwrap()).unwrap()
}

/// Round trips to Redis, or attempts at one.
fn round_trips(fleet: &Fleet) -> f64 {
    let count =
        |kind| metric(fleet, &format!("redis_command_duration_seconds_count{{kind=\"{kind}\"}}"));
    count("command") + count("script")
}

/// In all replicas together.
fn sum(fleet: &Fleet, series: &str) -> f64 {
    fleet.replicas.iter().map(|replica| metric_of(replica, series)).sum()
}

/// Whether a replica tells that it has to do without.
async fn is_reported(client: &Client) -> bool {
    let report = client.get("/health/ready").await.expect(200);
    let dependencies = report["dependencies"].as_array().unwrap();
    let redis = dependencies.iter().find(|dependency| dependency["name"] == "redis").unwrap();
    assert!(redis["up"] == true || report["degraded"] == true);
    redis["up"] == false
}

/// Waits until every replica, which is asked for something all the while, uses Redis again or has
/// given it up.
async fn until_left_alone(fleet: &Fleet, is_left_alone: bool) {
    until(async || {
        fleet.client.get("/v1/products").await.expect(200);
        fleet
            .replicas
            .iter()
            .all(|replica| (metric_of(replica, LEFT_ALONE) == 1.0) == is_left_alone)
    })
    .await;
    for replica in 0..fleet.replicas.len() {
        until(async || is_reported(&fleet.only(replica)).await == is_left_alone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused() {
    let way = way_to_redis();
    let fleet = Fleet::of(2).redis_through(way.port()).start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    way.set(Fault::Down).unwrap();
    walk_through(&fleet.client, &customer, product).await;
    until_left_alone(&fleet, true).await;
    walk_through(&fleet.client, &customer, product).await;
    assert!(fleet.replicas.iter().all(|replica| metric_of(replica, LOCAL) > 0.0));
    assert!(sum(&fleet, BYPASS) > 0.0);
    way.clear().unwrap();
    until_left_alone(&fleet, false).await;
    let share = sum(&fleet, LOCAL);
    walk_through(&fleet.client, &customer, product).await;
    assert_eq!(sum(&fleet, LOCAL), share);
}

/// The first calls pay the time-out, and from then on one a second, until it answers.
async fn only_the_first_calls_pay(fault: Fault) {
    let way = way_to_redis();
    let fleet = Fleet::of(1).redis_through(way.port()).set("SHOAL_REDIS_TIMEOUT_MS", "100");
    let fleet = fleet.start().await;
    let customer = fleet.client.register().await;
    customer.get("/v1/users/me").await.expect(200);
    until_left_alone(&fleet, false).await;
    let before = round_trips(&fleet);
    way.set(fault).unwrap();
    while metric(&fleet, LEFT_ALONE) == 0.0 {
        customer.get("/v1/users/me").await.expect(200);
    }
    assert!(round_trips(&fleet) - before <= FIRST_CALLS);

    let (begun, before) = (Instant::now(), round_trips(&fleet));
    let mut requests = JoinSet::new();
    for _ in 0..8 {
        let customer = customer.clone();
        requests.spawn(async move {
            for _ in 0..50 {
                customer.get("/v1/users/me").await.expect(200);
            }
        });
    }
    requests.join_all().await;
    let probes = begun.elapsed().as_secs() as f64 + 1.0;
    let paid = round_trips(&fleet) - before;
    assert!(paid <= probes, "{paid} of 400 paid, where {probes} were to look whether it is back");
    until(async || is_reported(&customer).await).await;

    way.clear().unwrap();
    let before = round_trips(&fleet);
    // One round trip each, if any.
    while metric(&fleet, LEFT_ALONE) == 1.0 {
        fleet.client.get("/v1/rate-limit").await.expect(200);
    }
    // One a second: that many take less than ten.
    assert!(round_trips(&fleet) - before < 10.0);
    until(async || !is_reported(&customer).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow() {
    only_the_first_calls_pay(Fault::Latency(Duration::from_secs(2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent() {
    only_the_first_calls_pay(Fault::Drop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_empty() {
    let mut fleet = Fleet::of(3).own_redis().start().await;
    let admin = fleet.admin().await;
    let (known, cold) = (admin.create_product(10, 1).await, admin.create_product(10, 1).await);
    let (customer, thief) = (fleet.client.register().await, fleet.client.register().await);
    let email = thief.get("/v1/users/me").await.expect(200)["email"].as_str().unwrap().to_owned();
    let tokens = fleet.client.login(&email, crate::support::PASSWORD).await.expect(200);
    let spent = json!({ "refresh_token": tokens["refresh_token"] });
    fleet.client.post("/v1/auth/refresh", &spent).await.expect(200);
    let order = customer.place_order("k", &[(known, 1)]).await.expect(201);
    for replica in 0..3 {
        fleet.only(replica).get(&format!("/v1/products/{known}")).await.expect(200);
    }

    let redis = fleet.redis.as_mut().unwrap();
    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    for replica in 0..3 {
        for session in [&customer, &thief, &admin] {
            let session = fleet.only(replica).with_token(session.token());
            session.get("/v1/users/me").await.expect(200);
        }
        let refused = fleet.only(replica).post("/v1/auth/refresh", &spent).await;
        refused.expect_problem(401, "unauthorized");
        let again = fleet.only(replica).with_token(customer.token());
        let again = again.place_order("k", &[(known, 1)]).await;
        assert_eq!(
            (again.expect(201), again.header("idempotency-replayed")),
            (order.clone(), "true")
        );
    }
    assert_eq!(fleet.database.number("select count(*) from orders").await, 1);

    until_left_alone(&fleet, false).await;
    let before = sum(&fleet, LOADS);
    let mut requests = JoinSet::new();
    for index in 0..300 {
        let product = if index % 2 == 0 { known } else { cold };
        let client = fleet.client.clone();
        requests.spawn(async move { client.get(&format!("/v1/products/{product}")).await });
    }
    for reply in requests.join_all().await {
        reply.expect(200);
    }
    // Once in the whole fleet, though a copy of the one may still be near.
    let loads = sum(&fleet, LOADS) - before;
    assert!((1.0..=2.0).contains(&loads), "{loads}");
}

async fn follow(replica: &Redis, primary: &Redis) {
    let replicate = format!("REPLICAOF 127.0.0.1 {}", primary.port());
    ask_redis::<String>(replica, &replicate).await;
    until(async || {
        let state = ask_redis::<String>(replica, "INFO replication").await;
        state.contains("master_link_status:up")
    })
    .await;
}

/// The old one lives on as a replica of the new one, and refuses writes.
#[tokio::test(flavor = "multi_thread")]
async fn failed_over() {
    let (old, new) = (own_redis(), own_redis());
    follow(&new, &old).await;
    let way = FaultProxy::before(old.port()).unwrap();
    let fleet = Fleet::of(3).redis_through(way.port()).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    walk_through(&fleet.client, &customer, product).await;

    ask_redis::<String>(&new, "REPLICAOF NO ONE").await;
    way.lead_to(([127, 0, 0, 1], new.port()).into()).unwrap();
    follow(&old, &new).await;
    walk_through(&fleet.client, &customer, product).await;
    let path = format!("/v1/products/{product}");
    for replica in 0..3 {
        fleet.only(replica).get(&path).await.expect(200);
    }
    // Ours is the only one left: nobody is stuck there.
    until(async || {
        let clients = ask_redis::<String>(&old, "CLIENT LIST TYPE normal").await;
        clients.lines().count() == 1
    })
    .await;
    assert_eq!(sum(&fleet, LOCAL), 0.0, "it took no request more than one round trip more");
    assert_eq!(sum(&fleet, LEFT_ALONE), 0.0);
    // Evictions are heard of, wherever one listens.
    admin.patch(&path, &json!({ "name": "Changed" })).await.expect(200);
    for replica in 0..3 {
        until(async || fleet.only(replica).get(&path).await.expect(200)["name"] == "Changed").await;
    }
}

/// The old one hangs, with the connections to it open: only a new connection leads to its successor.
#[tokio::test(flavor = "multi_thread")]
async fn failed_over_from_a_dead_host() {
    let (mut old, new) = (own_redis(), own_redis());
    let way = FaultProxy::before(old.port()).unwrap();
    let fleet = Fleet::of(2).redis_through(way.port()).set("SHOAL_REDIS_TIMEOUT_MS", "100");
    let fleet = fleet.start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    old.process().pause();
    until_left_alone(&fleet, true).await;
    walk_through(&fleet.client, &customer, product).await;
    way.lead_to(([127, 0, 0, 1], new.port()).into()).unwrap();
    until_left_alone(&fleet, false).await;
    walk_through(&fleet.client, &customer, product).await;
    assert!(ask_redis::<u64>(&new, "DBSIZE").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn full() {
    let fleet = Fleet::of(2).own_redis().start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(10, 100).await;
    let path = format!("/v1/products/{product}");
    let customer = fleet.client.register().await;
    for replica in 0..2 {
        fleet.only(replica).get(&path).await.expect(200);
    }
    fleet.redis_command("CONFIG SET maxmemory 1").await;
    walk_through(&fleet.client, &customer, product).await;
    // What it holds is still read, and what is changed is evicted all the same.
    admin.patch(&path, &json!({ "name": "Changed" })).await.expect(200);
    for replica in 0..2 {
        until(async || fleet.only(replica).get(&path).await.expect(200)["name"] == "Changed").await;
        let again = fleet.only(replica).get(&path).await;
        assert_eq!(again.header("cache-status"), "shoal; fwd=bypass", "it could not be kept");
    }
    for replica in &fleet.replicas {
        assert!(metric_of(replica, LOCAL) > 0.0 && metric_of(replica, BYPASS) > 0.0);
        assert_eq!(metric_of(replica, LEFT_ALONE), 0.0, "it answers");
    }
    fleet.redis_command("CONFIG SET maxmemory 0").await;
    until(async || fleet.client.get(&path).await.header("cache-status") == "shoal; hit").await;
    let share = sum(&fleet, LOCAL);
    walk_through(&fleet.client, &customer, product).await;
    assert_eq!(sum(&fleet, LOCAL), share);
}
