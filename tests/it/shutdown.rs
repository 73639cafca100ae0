//! An orderly end costs nobody a request.

use lab::process::Signal;
use uuid::Uuid;

use crate::support::{Client, Cluster, Fleet, Load, Reply, order, unique};

async fn one_request(client: &Client, product: Uuid, turn: usize) {
    match turn % 4 {
        0 => drop(client.get(&format!("/v1/products/{product}")).await.expect(200)),
        1 => drop(client.get("/v1/products?limit=5").await.expect(200)),
        2 => drop(client.get("/v1/orders?limit=1").await.expect(200)),
        _ => drop(client.place_order(&unique("key"), &[(product, 1)]).await.expect(201)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_fails_no_request_and_exits_with_zero() {
    // The drain delay is the shipped one: it must outlast nginx' idle connections.
    let mut cluster = Cluster::start(3, &[("SHOAL_DRAIN_DELAY_MS", "5000")]).await;
    let product = cluster.admin().await.create_product(1_000_000, 100).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(cluster.client.register().await);
    }
    let mut load = Load::default();
    for client in clients.clone() {
        load.add(move |turn| {
            let client = client.clone();
            async move { one_request(&client, product, turn).await }
        });
    }
    load.answered(100).await;
    let leaving = cluster.replicas[1].process();
    leaving.signal(Signal::TERM);
    let status = loop {
        load.answered(20).await;
        if let Some(status) = leaving.exit_status() {
            break status;
        }
    };
    assert!(status.success(), "{status}");
    load.answered(100).await;
    let sent = load.end().await;
    assert!(sent > 200);
    let orders = cluster.database.number("select count(*) from orders").await;
    assert_eq!(orders as usize, orders_of(&clients).await, "each order is found by who placed it");
}

async fn orders_of(clients: &[Client]) -> usize {
    let mut count = 0;
    for client in clients {
        let mut path = Some("/v1/orders?limit=100".to_owned());
        while let Some(page) = path.take() {
            let page = client.get(&page).await.expect(200);
            count += page["data"].as_array().unwrap().len();
            let next = page["next_cursor"].as_str();
            path = next.map(|cursor| format!("/v1/orders?limit=100&cursor={cursor}"));
        }
    }
    count
}

#[tokio::test]
async fn what_is_in_flight_is_finished_while_draining() {
    let mut fleet = Fleet::of(1).set("SHOAL_DRAIN_DELAY_MS", "3000").start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    // A lock on the product's stock holds the order up until we let go of it.
    let mut connection = fleet.database.connect().await;
    sqlx::raw_sql("begin; select from inventory for update")
        .execute(&mut connection)
        .await
        .unwrap();
    let order = tokio::spawn({
        let customer = customer.clone();
        async move { customer.place_order("k", &[(product, 1)]).await }
    });
    until_waiting_for_a_lock(&fleet).await;
    let mut replica = fleet.replicas.remove(0);
    let app = replica.app.clone();
    let stopping = tokio::spawn(async move { replica.stop().await });
    while !app.tasks.is_draining() {
        tokio::task::yield_now().await;
    }
    let reply = customer.get("/health/ready").await;
    assert_eq!(reply.expect(503)["status"], "draining");
    let served = customer.get(&format!("/v1/products/{product}")).await;
    served.expect(200);
    assert_eq!(served.header("connection"), "close");
    sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
    order.await.unwrap().expect(201);
    stopping.await.unwrap();
    let refused = customer.request(reqwest::Method::GET, "/health/live").send().await;
    assert!(refused.is_err_and(|error| error.is_connect()), "nobody listens any more");
}

async fn until_waiting_for_a_lock(fleet: &Fleet) {
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    for _ in 0..1_000 {
        if fleet.database.number(waiting).await > 0 {
            return;
        }
    }
    panic!("the order does not wait for the lock");
}

#[tokio::test]
async fn the_cap_ends_a_request_that_does_not() {
    let settings = Fleet::of(1).set("SHOAL_DRAIN_CAP_MS", "200");
    // What was cut off ends at its own deadline, soon after.
    let mut fleet = settings.set("SHOAL_REQUEST_TIMEOUT_MS", "3000").start().await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    let mut connection = fleet.database.connect().await;
    sqlx::raw_sql("begin; select from inventory for update")
        .execute(&mut connection)
        .await
        .unwrap();
    let request = customer.request(reqwest::Method::POST, "/v1/orders");
    let request = request.header("idempotency-key", "k").json(&order(&[(product, 1)]));
    let stuck = tokio::spawn(async move { request.send().await });
    until_waiting_for_a_lock(&fleet).await;
    fleet.replicas.remove(0).stop().await;
    // Without the cap it would have been answered, at its deadline.
    assert!(stuck.await.unwrap().is_err(), "cut off");
    sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
    assert_eq!(fleet.database.number("select count(*) from orders").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut cluster = Cluster::start(1, &[("SHOAL_DRAIN_DELAY_MS", "600000")]).await;
    let replica = cluster.replicas[0].process();
    replica.signal(Signal::TERM);
    let ready = cluster.client.clone();
    while Reply::of(ready.request(reqwest::Method::GET, "/health/ready")).await.status != 503 {}
    replica.signal(Signal::TERM);
    let status = loop {
        if let Some(status) = replica.exit_status() {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(status.code(), Some(130));
}
