//! More than can be done: what is refused, in which order, and that it passes.

use reqwest::Method;
use sqlx::{Executor, PgConnection};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};
use uuid::Uuid;

use crate::support::{Client, Fleet, Reply, order, until};

/// The value of a series in `/metrics`, 0 where it is missing.
async fn metric(fleet: &Fleet, series: &str) -> f64 {
    let text = fleet.only(0).get("/metrics").await;
    text.expect_text(200)
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().unwrap())
}

const SATURATION: &str = "service_saturation_ratio";
const LIMIT: &str = "concurrency_limit";

async fn shed(fleet: &Fleet, priority: &str) -> f64 {
    metric(fleet, &format!("shed_requests_total{{priority=\"{priority}\"}}")).await
}

fn expect_shed(reply: &Reply) {
    reply.expect_problem(503, "overloaded");
    assert_eq!(reply.header("retry-after"), "1");
}

/// A fleet whose limit stands still, so that one can count.
async fn fleet_of_forty() -> Fleet {
    let fleet = Fleet::of(1).set("SHOAL_CONCURRENCY_MAX", "40").set("SHOAL_CONCURRENCY_MIN", "40");
    fleet.start().await
}

/// Holds the stock of `product` until the connection is dropped.
async fn lock_stock(fleet: &Fleet, product: Uuid) -> PgConnection {
    let mut blocker = fleet.database.connect().await;
    blocker.execute("begin").await.unwrap();
    let lock = sqlx::query("select from inventory where product_id = $1 for update");
    lock.bind(product).execute(&mut blocker).await.unwrap();
    blocker
}

/// Sends so many of `request`, and waits until they are all in progress.
async fn fill(
    fleet: &Fleet,
    replies: &mut JoinSet<Reply>,
    count: usize,
    request: impl Fn(usize) -> reqwest::RequestBuilder,
) {
    let wanted = metric(fleet, SATURATION).await + count as f64 / 40.0;
    for index in 0..count {
        replies.spawn(Reply::of(request(index)));
    }
    until(async || (metric(fleet, SATURATION).await - wanted).abs() < 0.001).await;
}

async fn expect_health(client: &Client) {
    for path in ["/health/live", "/health/ready", "/health/startup", "/metrics"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn reports_are_shed_first_then_reads_then_writes_and_health_never() {
    let fleet = fleet_of_forty().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(1_000, 100).await;
    let path = format!("/v1/products/{product}");
    let stock = format!("{path}/stock");
    let customer = fleet.client.register().await;
    fleet.client.get(&path).await.expect(200);
    let blocker = lock_stock(&fleet, product).await;
    let place = |index: usize| {
        let request = customer.request(Method::POST, "/v1/orders");
        request.header("idempotency-key", format!("k{index}")).json(&order(&[(product, 1)]))
    };
    let adjust = |index: usize| {
        let request = admin.request(Method::POST, &stock);
        let body = serde_json::json!({ "delta": 1 });
        request.header("idempotency-key", format!("k{index}")).json(&body)
    };
    let mut stuck = JoinSet::new();

    fill(&fleet, &mut stuck, 20, place).await;
    expect_shed(&admin.get("/v1/users").await);
    fleet.client.get(&path).await.expect(200);

    fill(&fleet, &mut stuck, 10, |index| place(20 + index)).await;
    // Three quarters: no more of these, though there is room for others.
    expect_shed(&Reply::of(place(30)).await);
    fleet.client.get(&path).await.expect(200);

    fill(&fleet, &mut stuck, 6, adjust).await;
    expect_shed(&fleet.client.get(&path).await);
    expect_shed(&admin.get("/v1/users").await);
    expect_health(&fleet.client).await;

    fill(&fleet, &mut stuck, 4, |index| adjust(6 + index)).await;
    expect_shed(&Reply::of(adjust(10)).await);
    expect_health(&fleet.client).await;
    let counts = [
        shed(&fleet, "report").await,
        shed(&fleet, "read").await,
        shed(&fleet, "write").await,
        metric(&fleet, SATURATION).await,
    ];
    assert_eq!(counts, [2.0, 1.0, 2.0, 1.0]);

    drop(blocker);
    for reply in stuck.join_all().await {
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    }
    assert_eq!(metric(&fleet, SATURATION).await, 0.0);
    admin.get("/v1/users").await.expect(200);
    assert_eq!(admin.stock(product).await, 1_000 - 30 + 10);
}

#[tokio::test]
async fn clients_that_dawdle_over_their_bodies_keep_nobody_out() {
    let fleet = fleet_of_forty().await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(fleet.replicas[0].address).await.unwrap();
        let head = "POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                    content-length: 100\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // All of them and the question itself.
    until(async || metric(&fleet, "http_requests_in_flight").await == 101.0).await;
    until(async || metric(&fleet, SATURATION).await == 0.0).await;
    fleet.client.register().await.get("/v1/users/me").await.expect(200);
    drop(slow);
    until(async || metric(&fleet, "http_requests_in_flight").await == 1.0).await;
    assert_eq!(metric(&fleet, SATURATION).await, 0.0, "given back once and no more");
    assert_eq!(shed(&fleet, "write").await, 0.0);
}
