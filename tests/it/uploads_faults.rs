//! Uploads while S3 is away, or does not answer.

use lab::fault::{Fault, FaultProxy};
use serde_json::Value;

use crate::support::{Client, File, Fleet, metric, topology, until};

const BREAKER: &str = "circuit_breaker_state{target=\"s3\"}";

/// A way to S3 for the API alone: clients reach it by themselves.
fn way() -> FaultProxy {
    let (_, port) = topology().s3.endpoint.rsplit_once(':').unwrap();
    FaultProxy::before(port.parse().unwrap()).unwrap()
}

async fn fleet_through(way: &FaultProxy, timeout: &str) -> Fleet {
    Fleet::of(1)
        .set("S3_ENDPOINT", &format!("http://127.0.0.1:{}", way.port()))
        .set("SHOAL_S3_PUBLIC_ENDPOINT", &topology().s3.endpoint)
        .set("SHOAL_S3_TIMEOUT_MS", timeout)
        .set("SHOAL_UPLOAD_CHECKS", "8")
        .start()
        .await
}

async fn sent(customer: &Client) -> Value {
    let file = File::png(30, 30);
    let upload = customer.announce(&file, "avatar").await;
    customer.send(&upload, &file.bytes).await.expect_text(200);
    upload
}

/// Refused until the breaker is open, and still then; all else goes on.
async fn is_done_without(fleet: &Fleet, customer: &Client, upload: &Value, order: &str) {
    let product = fleet.admin().await.create_product(10, 100).await;
    until(async || {
        customer.complete(upload).await.expect_problem(503, "storage_unavailable");
        metric(fleet, BREAKER) == 1.0
    })
    .await;
    let refused = customer.complete(upload).await;
    refused.expect_problem(503, "storage_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(customer.state_of(upload).await["state"], "pending");
    customer.place_order(order, &[(product, 1)]).await.expect(201);
    // Addresses are signed here, and lead to where clients find S3.
    sent(customer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_that_is_down_or_silent_is_left_alone_and_found_again() {
    let way = way();
    let fleet = fleet_through(&way, "400").await;
    let customer = fleet.client.register().await;
    for (fault, key) in [(Fault::Down, "down"), (Fault::Drop, "silent")] {
        // The first call connects, which a busy machine may take its time for.
        let (upload, before) = (sent(&customer).await, sent(&customer).await);
        until(async || customer.complete(&before).await.status == 200).await;
        way.set(fault).unwrap();
        is_done_without(&fleet, &customer, &upload, key).await;
        let kept = customer.state_of(&before).await;
        let url = kept["download"]["url"].as_str().unwrap();
        assert_eq!(customer.fetch(url).await.status, 200);
        way.clear().unwrap();
        until(async || customer.complete(&upload).await.status == 200).await;
        assert_eq!(metric(&fleet, BREAKER), 0.0);
    }
}

/// More uploads wait for S3 than the process has connections to the database: none holds one.
#[tokio::test(flavor = "multi_thread")]
async fn while_s3_does_not_answer_orders_are_placed() {
    let way = way();
    let fleet = fleet_through(&way, "15000").await;
    let (admin, customer) = (fleet.admin().await, fleet.client.register().await);
    let product = admin.create_product(100, 100).await;
    let mut waiting = Vec::new();
    let mut uploads = Vec::new();
    for _ in 0..8 {
        uploads.push(sent(&customer).await);
    }
    way.set(Fault::Drop).unwrap();
    for upload in uploads.clone() {
        let customer = customer.clone();
        waiting.push(tokio::spawn(async move { customer.complete(&upload).await.status }));
    }
    let in_flight = "http_requests_in_flight";
    until(async || metric(&fleet, in_flight) >= 8.0).await;
    for key in 0..10 {
        customer.place_order(&key.to_string(), &[(product, 1)]).await.expect(201);
    }
    assert!(waiting.iter().all(|complete| !complete.is_finished()));
    way.clear().unwrap();
    for (complete, upload) in waiting.into_iter().zip(&uploads) {
        // What was asked of the lost connections may have to be asked again.
        assert!(matches!(complete.await.unwrap(), 200 | 503));
        until(async || customer.complete(upload).await.status == 200).await;
    }
}

/// Two calls at a time: others are told to come back rather than gather behind them.
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_slow_s3_are_few_at_a_time() {
    let way = way();
    let fleet = Fleet::of(1)
        .set("S3_ENDPOINT", &format!("http://127.0.0.1:{}", way.port()))
        .set("SHOAL_S3_PUBLIC_ENDPOINT", &topology().s3.endpoint)
        .set("SHOAL_S3_TIMEOUT_MS", "15000")
        .set("SHOAL_S3_CALLS", "2")
        .set("SHOAL_UPLOAD_CHECKS", "8")
        .start()
        .await;
    let customer = fleet.client.register().await;
    let mut uploads = Vec::new();
    for _ in 0..5 {
        uploads.push(sent(&customer).await);
    }
    way.set(Fault::Drop).unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for upload in uploads {
        let customer = customer.clone();
        waiting.spawn(async move { customer.complete(&upload).await });
    }
    for _ in 0..3 {
        let refused = waiting.join_next().await.unwrap().unwrap();
        refused.expect_problem(503, "overloaded");
    }
    way.clear().unwrap();
    while let Some(complete) = waiting.join_next().await {
        assert!(matches!(complete.unwrap().status, 200 | 503));
    }
}
