//! A new version goes out replica by replica, and no client notices.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use lab::process::Signal;
use reqwest::{Body, Method};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

use crate::support::{Client, Cluster, Load, Reply, order, topology, unique, until};

const REPLICAS: usize = 3;
/// What a request of the slow kinds takes, as they are made: longer than the drain delay, so that
/// each replica has some that began before its listener closed and end after it.
const SLOW: Duration = Duration::from_secs(5);
/// How often a balancer asks for readiness, as the probes in Kubernetes or a little less.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// Of either slow kind: enough that every replica has some whenever it is told to end.
const SLOW_CLIENTS: usize = 4;

const STOCK: i64 = 1_000_000;

const WAITING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'";

/// The orders that were answered with 201, by id.
type Placed = Arc<Mutex<Vec<Uuid>>>;

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_are_replaced_in_turn_and_no_request_fails() {
    let settings = [
        // The drain delay is the shipped one.
        ("SHOAL_DRAIN_DELAY_MS", "5000"),
        // Room for what takes 5 s, and for a machine that runs all tests at once.
        ("SHOAL_REQUEST_TIMEOUT_MS", "20000"),
        ("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "15000"),
        ("SHOAL_DB_LOOK_TIMEOUT_MS", "10000"),
    ];
    let mut cluster = Cluster::start(REPLICAS, &settings).await;
    let admin = cluster.admin().await;
    let product = admin.create_product(STOCK, 100).await;
    let customer = cluster.client.register().await;
    let (placed, mut load) = (Placed::default(), Load::default());
    for _ in 0..4 {
        let customer = customer.clone();
        add(&mut load, &placed, move |turn| a_quick_one(customer.clone(), product, turn));
    }
    let mut products = vec![product];
    for _ in 0..SLOW_CLIENTS {
        let slowly = customer.clone();
        add(&mut load, &placed, move |_| an_order_that_arrives_slowly(slowly.clone(), product));
        // Of its own: nobody else is in the way of who waits for it.
        let held = admin.create_product(STOCK, 100).await;
        products.push(held);
        let (waits, database) =
            (customer.clone(), topology().superuser_url(&cluster.database.name));
        add(&mut load, &placed, move |_| {
            an_order_that_waits(waits.clone(), held, database.clone())
        });
    }
    let balancer = Balancer::start(&cluster);
    for _ in 0..2 {
        let (customer, ready) = (customer.clone(), balancer.ready.clone());
        add(&mut load, &placed, move |turn| {
            let (customer, ready) = (customer.clone(), ready.clone());
            async move {
                let address = one_of(&ready, turn).await;
                a_quick_one(customer.with_addresses(vec![address]), product, turn).await
            }
        });
    }
    load.answered(100).await;

    for index in 0..REPLICAS {
        until(async || balancer.ready.lock().unwrap().len() == REPLICAS).await;
        until(async || requests_in_flight(&cluster, index).await > 1).await;
        until(async || cluster.database.number(WAITING).await > 0).await;
        let leaving = cluster.replicas[index].process();
        leaving.signal(Signal::TERM);
        let status = loop {
            load.answered(5).await;
            if let Some(status) = leaving.exit_status() {
                break status;
            }
        };
        assert!(status.success(), "{status}");
        // The new one has the address of the old one: nginx is told nothing.
        leaving.restart().unwrap();
        cluster.only(index).until_ready().await;
        load.answered(50).await;
    }

    let sent = load.end().await;
    balancer.polling.abort();
    assert!(sent > 300, "{sent} requests were too few to prove anything");
    let orders = cluster.database.number("select count(*) from orders").await;
    let mut placed = Arc::into_inner(placed).unwrap().into_inner().unwrap();
    placed.sort_unstable();
    placed.dedup();
    assert_eq!(orders as usize, placed.len(), "each 201 is an order, and each order was a 201");
    let sold = cluster.database.number("select sum(quantity)::bigint from order_items").await;
    let mut left = 0;
    for product in &products {
        left += admin.stock(*product).await;
    }
    assert_eq!(sold + left, STOCK * products.len() as i64);
}

fn add<F: Future<Output = Option<Uuid>> + Send + 'static>(
    load: &mut Load,
    placed: &Placed,
    mut request: impl FnMut(usize) -> F + Send + 'static,
) {
    let placed = placed.clone();
    load.add(move |turn| {
        let (request, placed) = (request(turn), placed.clone());
        async move {
            if let Some(order) = request.await {
                placed.lock().unwrap().push(order);
            }
        }
    });
}

/// One that repeats nothing, unlike nginx: a request goes to a replica that was ready when it was last
/// asked, and fails if that one listens no more. The drain delay is for it.
struct Balancer {
    ready: Arc<Mutex<Vec<SocketAddr>>>,
    polling: JoinHandle<()>,
}

impl Balancer {
    fn start(cluster: &Cluster) -> Self {
        let replicas: Vec<_> = (0..REPLICAS).map(|index| cluster.address(index)).collect();
        let ready = Arc::new(Mutex::new(replicas.clone()));
        let (client, shown) = (cluster.client.clone(), ready.clone());
        let polling = tokio::spawn(async move {
            loop {
                sleep(ASKED_EVERY).await;
                let mut found = Vec::new();
                for address in &replicas {
                    let replica = client.with_addresses(vec![*address]);
                    let answer = replica.request(Method::GET, "/health/ready").send().await;
                    if answer.is_ok_and(|answer| answer.status().is_success()) {
                        found.push(*address);
                    }
                }
                *shown.lock().unwrap() = found;
            }
        });
        Self { ready, polling }
    }
}

/// Each in turn. Waits while there is none, as on a slow machine, where they may all be late to answer.
async fn one_of(ready: &Mutex<Vec<SocketAddr>>, turn: usize) -> SocketAddr {
    loop {
        let found = {
            let ready = ready.lock().unwrap();
            turn.checked_rem(ready.len()).map(|index| ready[index])
        };
        match found {
            Some(address) => return address,
            None => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Reads, and orders whose answer is asked for twice.
async fn a_quick_one(client: Client, product: Uuid, turn: usize) -> Option<Uuid> {
    match turn % 4 {
        0 => drop(client.get(&format!("/v1/products/{product}")).await.expect(200)),
        1 => drop(client.get("/v1/products?limit=5").await.expect(200)),
        2 => drop(client.get("/v1/orders?limit=1").await.expect(200)),
        _ => {
            let key = unique("key");
            let first = client.place_order(&key, &[(product, 1)]).await.expect(201);
            let again = client.place_order(&key, &[(product, 1)]).await.expect(201);
            assert_eq!(again, first, "whichever replica is asked");
            return Some(id(&first));
        }
    }
    None
}

/// In flight within the replica: the stock's row is somebody else's for 5 s.
async fn an_order_that_waits(client: Client, product: Uuid, database: String) -> Option<Uuid> {
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let mut holder = connection.begin().await.unwrap();
    let lock = "select from inventory where product_id = $1 for update";
    sqlx::query(lock).bind(product).execute(&mut *holder).await.unwrap();
    let (reply, ()) =
        tokio::join!(async { client.place_order(&unique("key"), &[(product, 1)]).await }, async {
            sleep(SLOW).await;
            holder.rollback().await.unwrap();
        });
    Some(id(&reply.expect(201)))
}

/// In flight between the client and nginx, which hands it on when it is complete: to a replica that
/// may have been another one when the request began.
async fn an_order_that_arrives_slowly(client: Client, product: Uuid) -> Option<Uuid> {
    const PARTS: usize = 10;
    let body = order(&[(product, 1)]).to_string().into_bytes();
    let size = body.len().div_ceil(PARTS);
    let parts: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let pause = SLOW / PARTS as u32;
    let slowly = stream::unfold(parts.into_iter(), move |mut parts| async move {
        sleep(pause).await;
        parts.next().map(|part| (Ok::<_, std::io::Error>(part), parts))
    });
    let request = client.request(Method::POST, "/v1/orders");
    let request = request.header("idempotency-key", unique("key"));
    let request = request.header("content-type", "application/json");
    let reply = Reply::of(request.body(Body::wrap_stream(slowly))).await;
    Some(id(&reply.expect(201)))
}

fn id(order: &Value) -> Uuid {
    order["id"].as_str().unwrap().parse().unwrap()
}

/// `http_requests_in_flight` of one replica.
async fn requests_in_flight(cluster: &Cluster, replica: usize) -> u64 {
    let reply = cluster.only(replica).get("/metrics").await;
    let mut lines = reply.expect_text(200).lines();
    let value = lines.find_map(|line| line.strip_prefix("http_requests_in_flight ")).unwrap();
    value.parse().unwrap()
}
