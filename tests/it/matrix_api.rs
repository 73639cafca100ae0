//! The failure matrix: replicas of the API that are killed, frozen, or cut off from a server.

use lab::fault::{Fault, FaultProxy};
use sqlx::{Executor, PgConnection};
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

use crate::{
    auth::walk_through,
    failover::ways,
    routing::in_rotation,
    support::{
        Client, Cluster, Database, Fleet, HANG, metric, own_postgres, topology, unique, until,
    },
};

/// Holds up every order of the product until it is let go of.
async fn lock_stock(database: &Database, product: Uuid) -> PgConnection {
    let mut blocker = database.connect().await;
    blocker.execute("begin").await.unwrap();
    let lock = sqlx::query("select from inventory where product_id = $1 for update");
    lock.bind(product).execute(&mut blocker).await.unwrap();
    blocker
}

async fn until_waiting_for_a_lock(database: &Database) {
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    until(async || database.number(waiting).await > 0).await;
}

/// Which replica has a request in progress, as its metrics say.
async fn busy(cluster: &Cluster) -> usize {
    for replica in 0..cluster.replicas.len() {
        let metrics = cluster.only(replica).get("/metrics").await;
        let text = metrics.expect_text(200);
        let count = text.lines().find_map(|line| line.strip_prefix("http_requests_in_flight "));
        // The look itself is one.
        if count.unwrap().parse::<f64>().unwrap() > 1.0 {
            return replica;
        }
    }
    panic!("nobody has anything to do");
}

/// Readers that go on until this is dropped or awaited; none may get anything but 200.
fn read_all_the_while(client: &Client, path: &str) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (client, path) = (client.clone(), path.to_owned());
        readers.spawn(async move {
            for _ in 0..100 {
                client.get(&path).await.expect(200);
            }
        });
    }
    readers
}

#[tokio::test(flavor = "multi_thread")]
async fn killed() {
    let mut cluster = Cluster::start(3, &[]).await;
    let product = cluster.admin().await.create_product(10, 100).await;
    let customer = cluster.client.register().await;
    let blocker = lock_stock(&cluster.database, product).await;
    let place = {
        let customer = customer.clone();
        async move { customer.place_order("k", &[(product, 3)]).await }
    };
    let placing = tokio::spawn(place);
    until_waiting_for_a_lock(&cluster.database).await;
    let victim = busy(&cluster).await;
    let readers = read_all_the_while(&customer, "/v1/users/me");
    cluster.replicas[victim].process().kill();
    let failed = placing.await.unwrap();
    assert_eq!((failed.status, &failed.json()["code"]), (503, &"unavailable".into()));
    readers.join_all().await;
    // Neither its transaction nor its lock on the key outlives it for long.
    drop(blocker);
    let again = async || customer.place_order("k", &[(product, 3)]).await;
    until(async || {
        let reply = again().await;
        assert!(matches!(reply.status, 201 | 409 | 503), "{reply:?}");
        reply.status == 201
    })
    .await;
    assert_eq!(again().await.header("idempotency-replayed"), "true");
    assert_eq!(cluster.database.number("select count(*) from orders").await, 1);
    assert_eq!(cluster.database.number("select on_hand from inventory").await, 7);
}

/// It held the lease of an entry that everybody asks for.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_loads_for_all() {
    // As patient as nginx: what is proven is that the other one answers, not how fast.
    let mut cluster = Cluster::start(2, &[("SHOAL_REQUEST_TIMEOUT_MS", "8000")]).await;
    let product = cluster.admin().await.create_product(10, 100).await;
    let path = format!("/v1/products/{product}");
    let mut blocker = cluster.database.connect().await;
    blocker.execute("begin; lock table products in access exclusive mode").await.unwrap();
    let client = cluster.client.clone();
    let loading = tokio::spawn({
        let path = path.clone();
        async move { client.get(&path).await }
    });
    until_waiting_for_a_lock(&cluster.database).await;
    let victim = busy(&cluster).await;
    cluster.replicas[victim].process().kill();
    blocker.execute("rollback").await.unwrap();
    // The other one takes over once the lease has ended, sooner than a request may take.
    loading.await.unwrap().expect(200);
    let other = cluster.only(1 - victim);
    until(async || other.get(&path).await.header("cache-status").starts_with("shoal; hit")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen() {
    // Longer than it is frozen, so that it is not the deadline that keeps it from committing.
    let mut cluster = Cluster::start(2, &[("SHOAL_REQUEST_TIMEOUT_MS", "25000")]).await;
    let product = cluster.admin().await.create_product(10, 100).await;
    let customer = cluster.client.register().await;
    let other = cluster.only(1).with_token(cluster.client.register().await.token());
    let mut blocker = lock_stock(&cluster.database, product).await;
    let frozen = cluster.only(0).with_token(customer.token());
    let placing = tokio::spawn(async move { frozen.place_order("k", &[(product, 3)]).await });
    until_waiting_for_a_lock(&cluster.database).await;
    cluster.replicas[0].process().pause();
    // Its statement is done now, and its transaction holds the stock.
    blocker.execute("rollback").await.unwrap();
    let readers = read_all_the_while(&customer, "/v1/users/me");
    other.place_order("other", &[(product, 1)]).await.expect(201);
    timeout(HANG, readers.join_all()).await.expect("a hang");
    cluster.replicas[0].process().resume();
    let reply = placing.await.unwrap();
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(cluster.database.number("select count(*) from orders").await, 1);
    let again = customer.place_order("k", &[(product, 3)]).await;
    again.expect(201);
    assert_eq!(again.header("idempotency-replayed"), "", "it had not happened");
    assert_eq!(cluster.database.number("select on_hand from inventory").await, 6);
}

/// Of two that share everything, one alone cannot reach the databases.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_from_postgres() {
    let own = own_postgres(1);
    let ways = ways(&own);
    let prefix = unique("shared");
    let fleet = async || {
        let fleet = Fleet::of(1).postgres(&own).await.set("SHOAL_REDIS_PREFIX", &prefix);
        fleet.set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "2000")
    };
    let cut = fleet().await.primary_pooler(ways[0].port()).replica_pooler(ways[1].port());
    let (cut, well) = (cut.start().await, fleet().await.start().await);
    in_rotation(&cut, &[1]).await;
    let product = well.admin().await.create_product(100, 100).await;
    let customer = well.client.register().await;
    let here = cut.client.with_token(customer.token());
    here.get(&format!("/v1/products/{product}")).await.expect(200);
    here.place_order("before", &[(product, 1)]).await.expect(201);
    for way in &ways {
        way.set(Fault::Drop).unwrap();
    }
    for breaker in ["primary", "replica-1"] {
        let state = format!("circuit_breaker_state{{target=\"{breaker}\"}}");
        until(async || metric(&cut, &state) == 1.0 || cut.app().db.states().iter().all(|s| !s.up))
            .await;
    }
    let connected = ways[0].accepted();
    for turn in 0..50 {
        let refused = here.place_order(&format!("{turn}"), &[(product, 1)]).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        let refused = here.get(&format!("/v1/products?q=turn{turn}")).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        customer.place_order(&format!("{turn}"), &[(product, 1)]).await.expect(201);
    }
    assert!(ways[0].accepted() < connected + 50, "requests go on connecting");
    // What Redis has is served, and it is not taken out of the balancer.
    here.get(&format!("/v1/products/{product}")).await.expect(200);
    assert_eq!(here.get("/health/ready").await.expect(200)["degraded"], true);
    assert_eq!(well.client.get("/health/ready").await.expect(200)["degraded"], false);
    for way in &ways {
        way.clear().unwrap();
    }
    until(async || here.place_order("after", &[(product, 1)]).await.status == 201).await;
    assert_eq!(cut.database.number("select count(*) from orders").await, 52);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_from_redis() {
    let own = own_postgres(1);
    let (_, port) = topology().redis_url.rsplit_once(':').unwrap();
    let way = FaultProxy::before(port.parse().unwrap()).unwrap();
    let prefix = unique("shared");
    let fleet = async || Fleet::of(1).postgres(&own).await.set("SHOAL_REDIS_PREFIX", &prefix);
    let cut = fleet().await.redis_through(way.port()).set("SHOAL_REDIS_TIMEOUT_MS", "100");
    let (cut, well) = (cut.start().await, fleet().await.start().await);
    let product = well.admin().await.create_product(100, 100).await;
    let customer = well.client.register().await;
    let ended = well.client.register().await;
    let here = cut.client.with_token(customer.token());
    here.get("/v1/users/me").await.expect(200);
    way.set(Fault::Drop).unwrap();
    walk_through(&here.anonymous(), &here, product).await;
    let state = "circuit_breaker_state{target=\"redis\"}";
    until(async || {
        here.get("/v1/users/me").await.expect(200);
        metric(&cut, state) == 1.0
    })
    .await;
    assert_eq!(metric(&well, state), 0.0);
    walk_through(&well.client, &customer, product).await;
    // A session that is ended where Redis is known ends here as well.
    let gone = ended.post("/v1/auth/logout", &serde_json::json!({})).await;
    assert_eq!(gone.status, 204);
    here.with_token(ended.token()).until_refused().await;
    way.clear().unwrap();
    until(async || {
        here.get("/v1/users/me").await.expect(200);
        metric(&cut, state) == 0.0
    })
    .await;
}
