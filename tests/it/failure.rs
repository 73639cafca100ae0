//! What users see when a part is away.

use tokio::task::JoinSet;

use crate::support::{Fleet, Reply, metric, pgbouncer, restart, topology, until};

const REPLICA_UP: &str = "db_replica_up{replica=\"replica-1\"}";
const PRIMARY_LEFT_ALONE: &str = "circuit_breaker_state{target=\"primary\"}";
const FROM_REPLICA: &str = "db_reads_total{reason=\"fresh_enough\",target=\"replica\"}";
const FROM_PRIMARY: &str = "db_reads_total{reason=\"no_replica\",target=\"primary\"}";

#[tokio::test(flavor = "multi_thread")]
async fn reads_move_to_the_primary_while_the_replicas_are_away_and_back_again() {
    let mut pooler = pgbouncer(topology().replicas[0].port);
    let fleet = Fleet::of(1).replica_pooler(pooler.port()).start().await;
    // A page of its own each time: what is cached would be no read.
    let mut limit = 0;
    let mut reads = async |counter: &'static str| {
        let before = metric(&fleet, counter);
        until(async || {
            limit += 1;
            fleet.client.get(&format!("/v1/products?q={limit}")).await.expect(200);
            metric(&fleet, counter) > before
        })
        .await;
    };
    until(async || metric(&fleet, REPLICA_UP) == 1.0).await;
    reads(FROM_REPLICA).await;
    pooler.process().stop();
    until(async || metric(&fleet, REPLICA_UP) == 0.0).await;
    reads(FROM_PRIMARY).await;
    restart(&mut pooler).await;
    until(async || metric(&fleet, REPLICA_UP) == 1.0).await;
    reads(FROM_REPLICA).await;
}

/// The pool pings nothing in steady use, so it must notice by itself what broke.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_pgbouncer_leaves_no_broken_connection_behind() {
    let mut pooler = pgbouncer(topology().primary.port);
    let fleet = Fleet::of(1).primary_pooler(pooler.port()).start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let customer = fleet.client.register().await;
    let rush = async |round: &str| {
        let mut rush = JoinSet::new();
        for index in 0..20 {
            let (customer, key) = (customer.clone(), format!("{round}-{index}"));
            rush.spawn(async move {
                let placed = customer.place_order(&key, &[(product, 1)]).await;
                let read = customer.get("/v1/orders?limit=1").await;
                [placed, read]
            });
        }
        rush.join_all().await.into_iter().flatten().collect::<Vec<Reply>>()
    };
    for reply in rush("before").await {
        assert!(reply.status < 300, "{reply:?}");
    }
    restart(&mut pooler).await;
    // At first some may be told to come back, but never anything worse.
    for reply in rush("during").await {
        assert!(matches!(reply.status, 200 | 201 | 503), "{reply:?}");
    }
    until(async || metric(&fleet, PRIMARY_LEFT_ALONE) == 0.0).await;
    for reply in rush("after").await {
        assert!(reply.status < 300, "{reply:?}");
    }
    for index in 0..20 {
        let retried = customer.place_order(&format!("during-{index}"), &[(product, 1)]).await;
        retried.expect(201);
    }
    assert_eq!(fleet.database.number("select count(*) from orders").await, 60);
    assert_eq!(fleet.database.number("select sum(on_hand)::bigint from inventory").await, 940);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_primary_writes_are_refused_and_nothing_hangs() {
    let mut pooler = pgbouncer(topology().primary.port);
    let fleet = Fleet::of(1).primary_pooler(pooler.port()).start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    let path = format!("/v1/products/{product}");
    customer.get(&path).await.expect(200);
    until(async || metric(&fleet, REPLICA_UP) == 1.0).await;
    pooler.process().stop();
    let refused = customer.place_order("k", &[(product, 1)]).await;
    refused.expect_problem(503, "database_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    assert!(customer.get(&path).await.header("cache-status").starts_with("shoal; hit"));
    customer.get("/v1/products").await.expect(200);
    assert_eq!(customer.get("/health/ready").await.expect(200)["degraded"], true);
    restart(&mut pooler).await;
    until(async || customer.place_order("k", &[(product, 1)]).await.status == 201).await;
    assert_eq!(fleet.database.number("select count(*) from orders").await, 1);
}
