//! The failure matrix: the primary, its replicas and their poolers.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lab::{
    fault::{Fault, FaultProxy},
    postgres::OwnPostgres,
};
use sqlx::{Executor, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    failover::{superuser_at, ways},
    routing::in_rotation,
    support::{Client, Fleet, Reply, metric, own_postgres, until},
};

const LEFT_ALONE: &str = "circuit_breaker_state{target=\"primary\"}";

/// A shop on servers of its own, with an order that every replica has.
struct Shop {
    fleet: Fleet,
    product: Uuid,
    customer: Client,
    order: String,
}

impl Shop {
    async fn open(own: &OwnPostgres, ways: &[FaultProxy]) -> Self {
        let ports: Vec<u16> = ways.iter().map(FaultProxy::port).collect();
        let fleet = Fleet::of(1).postgres(own).await.own_redis().primary_pooler(ports[0]);
        let fleet = fleet.replica_poolers(&ports[1..]).set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "2000");
        let fleet = fleet.start().await;
        in_rotation(&fleet, &(1..ports.len()).collect::<Vec<_>>()).await;
        let product = fleet.admin().await.create_product(1_000, 100).await;
        let customer = fleet.client.register().await;
        let order = customer.place_order("first", &[(product, 1)]).await.expect(201);
        let order = format!("/v1/orders/{}", order["id"].as_str().unwrap());
        fleet.database.replicated().await;
        Self { fleet, product, customer, order }
    }

    async fn buy(&self, key: &str) -> Reply {
        self.customer.place_order(key, &[(self.product, 1)]).await
    }

    async fn until_bought(&self, key: &str) {
        until(async || self.buy(key).await.status == 201).await;
    }

    async fn orders(&self) -> i64 {
        self.fleet.database.number("select count(*) from orders").await
    }

    async fn is_degraded(&self) -> bool {
        self.customer.get("/health/ready").await.expect(200)["degraded"] == true
    }
}

fn expect_refused(reply: &Reply) {
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(!reply.header("retry-after").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_restarted() {
    let mut own = own_postgres(2);
    let ways = ways(&own);
    let shop = Shop::open(&own, &ways).await;
    own.primary.postgres.process().kill();
    expect_refused(&shop.buy("while away").await);
    until(async || metric(&shop.fleet, LEFT_ALONE) == 1.0).await;
    // Also when Redis does not know whether the session is live.
    for page in 0..50 {
        shop.customer.get(&shop.order).await.expect(200);
        let list = shop.customer.get(&format!("/v1/products?q=product&limit={}", page + 1)).await;
        assert_eq!(list.expect(200)["data"].as_array().unwrap().len(), 1);
        expect_refused(&shop.buy("while away").await);
        if page % 10 == 0 {
            shop.fleet.flush_redis().await;
        }
    }
    assert!(shop.is_degraded().await);
    own.primary.postgres.process().restart().unwrap();
    own.primary.postgres.wait_until_ready().unwrap();
    shop.until_bought("while away").await;
    until(async || metric(&shop.fleet, LEFT_ALONE) == 0.0).await;
    until(async || !shop.is_degraded().await).await;
    assert_eq!(shop.orders().await, 2);
}

/// What no replica has is not there, rather than as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn no_stale_read_of_ones_own_without_the_primary() {
    let mut own = own_postgres(2);
    let ways = ways(&own);
    let shop = Shop::open(&own, &ways).await;
    for replica in &mut own.replicas {
        replica.postgres.pause_replay().unwrap();
    }
    let order = shop.buy("late").await.expect(201);
    let path = format!("/v1/orders/{}", order["id"].as_str().unwrap());
    ways[0].set(Fault::Down).unwrap();
    for _ in 0..20 {
        expect_refused(&shop.customer.get(&path).await);
        expect_refused(&shop.customer.get("/v1/orders").await);
    }
    // Whoever has not written is served.
    shop.fleet.client.get("/v1/products?q=nothing").await.expect(200);
    for replica in &mut own.replicas {
        replica.postgres.resume_replay().unwrap();
    }
    until(async || shop.customer.get(&path).await.status == 200).await;
    ways[0].clear().unwrap();
    shop.until_bought("again").await;
}

/// Who buys all the while is refused for a time, and no order that was confirmed is lost.
#[tokio::test(flavor = "multi_thread")]
async fn failed_over_to_a_promoted_replica() {
    let mut own = own_postgres(2);
    let ways = ways(&own);
    let shop = Arc::new(Shop::open(&own, &ways).await);
    let stop = Arc::new(AtomicBool::new(false));
    let (buying, ended) = (shop.clone(), stop.clone());
    let buyer = tokio::spawn(async move {
        let mut placed = Vec::new();
        for turn in 0.. {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            let reply = buying.buy(&format!("turn {turn}")).await;
            match reply.status {
                201 => placed.push(reply.json()["id"].as_str().unwrap().parse::<Uuid>().unwrap()),
                _ => expect_refused(&reply),
            }
        }
        placed
    });
    until(async || shop.orders().await > 5).await;
    ways[0].set(Fault::Down).unwrap();
    until(async || metric(&shop.fleet, LEFT_ALONE) == 1.0).await;
    shop.fleet.database.replicated().await;
    own.replicas[0].postgres.promote().unwrap();
    ways[0].lead_to(([127, 0, 0, 1], own.replicas[0].pooler.port()).into()).unwrap();
    let left = shop.orders().await;
    ways[0].clear().unwrap();
    shop.until_bought("after").await;
    stop.store(true, Ordering::Relaxed);
    let placed = buyer.await.unwrap();

    let mut successor = superuser_at(&own, own.replicas[0].postgres.port()).await;
    let found = "select count(*) from orders where id = any($1)";
    let found: i64 =
        sqlx::query_scalar(found).bind(&placed).fetch_one(&mut successor).await.unwrap();
    assert_eq!(found as usize, placed.len(), "a confirmed order is lost");
    let all: i64 =
        sqlx::query_scalar("select count(*) from orders").fetch_one(&mut successor).await.unwrap();
    assert!(all > left);
    assert_eq!(shop.orders().await, left, "none of the later ones is on the old primary");
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_read_only() {
    let own = own_postgres(1);
    let ways = ways(&own);
    let shop = Shop::open(&own, &ways).await;
    let mut admin = shop.fleet.database.connect().await;
    let all = "select count(*) from orders, order_items, events, idempotency_keys";
    let before = shop.fleet.database.number(all).await;
    make_read_only(&mut admin, "on").await;
    for _ in 0..10 {
        let refused = shop.buy("read-only").await;
        refused.expect_problem(503, "database_unavailable");
        expect_refused(&refused);
        shop.customer.get(&shop.order).await.expect(200);
        shop.customer.get("/v1/products").await.expect(200);
    }
    assert_eq!(shop.fleet.database.number(all).await, before);
    make_read_only(&mut admin, "off").await;
    shop.until_bought("read-only").await;
    assert_eq!(shop.orders().await, 2);
}

async fn make_read_only(admin: &mut PgConnection, is: &str) {
    let alter = format!("alter system set default_transaction_read_only = {is}");
    admin.execute(sqlx::AssertSqlSafe(alter)).await.unwrap();
    admin.execute("select pg_reload_conf()").await.unwrap();
    // A process looks at its configuration before it takes its next statement.
    until(async || {
        let shown = "show default_transaction_read_only";
        sqlx::query_scalar::<_, String>(shown).fetch_one(&mut *admin).await.unwrap() == is
    })
    .await;
}

/// The lines of orders have no room: their files lead to where every write ends with `ENOSPC`.
#[tokio::test(flavor = "multi_thread")]
async fn primary_disk_full() {
    let fleet = Fleet::of(1).start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    let mut superuser = fleet.database.connect().await;
    let files = "select current_setting('data_directory') || '/' || pg_relation_filepath(inhrelid)
                 from pg_inherits where inhparent = 'order_items'::regclass";
    let files: Vec<String> = sqlx::query_scalar(files).fetch_all(&mut superuser).await.unwrap();
    let aside = |file: &str| format!("{file}.aside");
    for file in &files {
        fs::rename(file, aside(file)).unwrap();
        symlink("/dev/full", file).unwrap();
    }
    for _ in 0..5 {
        let refused = customer.place_order("full", &[(product, 1)]).await;
        refused.expect_problem(503, "database_unavailable");
        customer.get("/v1/products").await.expect(200);
    }
    let all = "select (select count(*) from orders) + (select count(*) from events
                   where type = 'order.created') + (select count(*) from idempotency_keys)";
    assert_eq!(fleet.database.number(all).await, 0);
    assert_eq!(fleet.database.number("select on_hand from inventory").await, 10);
    for file in &files {
        fs::rename(aside(file), file).unwrap();
    }
    // A process of the server keeps the file that it has opened.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    superuser.execute(end).await.unwrap();
    let placed = async || customer.place_order("full", &[(product, 1)]).await.status == 201;
    until(placed).await;
    assert_eq!(fleet.database.number("select count(*) from orders").await, 1);
    assert_eq!(fleet.database.number("select on_hand from inventory").await, 9);
}

/// Connecting to it would take until the time-out: no request pays for that.
#[tokio::test(flavor = "multi_thread")]
async fn replica_silent() {
    let own = own_postgres(2);
    let ways = ways(&own);
    let shop = Shop::open(&own, &ways).await;
    ways[1].set(Fault::Drop).unwrap();
    in_rotation(&shop.fleet, &[2]).await;
    let connected = ways[1].accepted();
    for turn in 0..200 {
        shop.fleet.client.get(&format!("/v1/products?q=turn{turn}")).await.expect(200);
        shop.customer.get(&shop.order).await.expect(200);
    }
    assert!(ways[1].accepted() < connected + 100, "requests connect to it");
    assert!(shop.is_degraded().await);
    ways[1].clear().unwrap();
    in_rotation(&shop.fleet, &[1, 2]).await;
    until(async || !shop.is_degraded().await).await;
}

/// Its connections stay open, so that only waiting tells.
#[tokio::test(flavor = "multi_thread")]
async fn pooler_frozen_and_thawed() {
    let mut own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await;
    let fleet = fleet.set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "1000");
    let fleet = fleet.set("SHOAL_REQUEST_TIMEOUT_MS", "3000").start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let customer = fleet.client.register().await;
    let rush = async || {
        let mut rush = JoinSet::new();
        for index in 0..20 {
            let customer = customer.clone();
            let place =
                async move { customer.place_order(&index.to_string(), &[(product, 1)]).await };
            rush.spawn(place);
        }
        rush.join_all().await
    };
    own.primary.pooler.process().pause();
    for _ in 0..2 {
        rush().await.iter().for_each(expect_refused);
    }
    until(async || metric(&fleet, LEFT_ALONE) == 1.0).await;
    own.primary.pooler.process().resume();
    until(async || rush().await.iter().all(|reply| reply.status == 201)).await;
    assert_eq!(fleet.database.number("select count(*) from orders").await, 20);
    let used = "db_pool_connections{pool=\"primary\",state=\"used\"}";
    until(async || metric(&fleet, used) == 0.0).await;
    // All of the pool is there again: more at once than a part of it could do.
    let held = (0..5).map(|_| fleet.app().db.primary());
    for conn in futures::future::join_all(held).await {
        conn.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_exhausted() {
    let fleet = Fleet::of(1).set("SHOAL_DB_POOL_SIZE", "1").start().await;
    let product = fleet.admin().await.create_product(100, 1).await;
    let customer = fleet.client.register().await;
    // Whoever took a second connection would wait for the first for ever.
    let orders = (0..10).map(|key| {
        let customer = customer.clone();
        async move { customer.place_order(&key.to_string(), &[(product, 1)]).await }
    });
    for reply in futures::future::join_all(orders).await {
        reply.expect(201);
    }

    let own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await.set("SHOAL_DB_POOL_SIZE", "1");
    let fleet = fleet.set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "500").start().await;
    in_rotation(&fleet, &[1]).await;
    let product = fleet.admin().await.create_product(100, 1).await;
    let customer = fleet.client.register().await;
    customer.get("/v1/users/me").await.expect(200);
    let held = fleet.app().db.primary().await.unwrap();
    for turn in 0..3 {
        let refused = customer.place_order("k", &[(product, 1)]).await;
        expect_refused(&refused);
        // Replicas have pools of their own.
        fleet.client.get(&format!("/v1/products?q=turn{turn}")).await.expect(200);
        fleet.client.get("/health/ready").await.expect(200);
        fleet.client.get("/metrics").await.expect_text(200);
    }
    drop(held);
    customer.place_order("k", &[(product, 1)]).await.expect(201);
}
