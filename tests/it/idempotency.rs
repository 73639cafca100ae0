//! A request that is sent twice happens once.

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Fleet, Reply, order, unique};

/// Sends the same order 50 times at once, round the replicas, and checks that it happened once.
async fn fifty_at_once(fleet: &Fleet) {
    let product = fleet.admin().await.create_product(100, 250).await;
    let customer = fleet.client.register().await;
    let key = unique("key");
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (customer, key) = (customer.clone(), key.clone());
        requests.spawn(async move { customer.place_order(&key, &[(product, 2)]).await });
    }
    let replies = requests.join_all().await;
    let (accepted, conflicts): (Vec<Reply>, Vec<Reply>) =
        replies.into_iter().partition(|reply| reply.status == 201);
    for conflict in &conflicts {
        conflict.expect_problem(409, "idempotency_key_in_flight");
        assert_eq!(conflict.header("retry-after"), "1");
    }
    let first: Vec<&Reply> =
        accepted.iter().filter(|reply| reply.header("idempotency-replayed").is_empty()).collect();
    assert_eq!(first.len(), 1, "exactly one of the answers is not a replay");
    for reply in &accepted {
        assert_eq!(reply.body, first[0].body, "byte for byte");
        assert_eq!(reply.header("location"), first[0].header("location"));
    }
    let later = customer.place_order(&key, &[(product, 2)]).await;
    assert_eq!((later.status, &later.body), (201, &first[0].body));
    assert_eq!(later.header("idempotency-replayed"), "true");
    // The first answer may have been lost, and with it the position of what it wrote.
    assert!(!later.header("consistency-token").is_empty());
    assert_eq!(fleet.database.number("select count(*) from orders").await, 1);
    assert_eq!(fleet.database.number("select sum(on_hand)::bigint from inventory").await, 98);
}

#[tokio::test]
async fn fifty_requests_with_one_key_place_one_order() {
    let fleet = Fleet::of(3).start().await;
    fifty_at_once(&fleet).await;
}

#[tokio::test]
async fn a_flushed_redis_does_not_double_an_order() {
    let fleet = Fleet::of(3).own_redis().start().await;
    let product = fleet.admin().await.create_product(10, 250).await;
    let customer = fleet.client.register().await;
    let first = customer.place_order("one", &[(product, 1)]).await;
    first.expect(201);
    fleet.flush_redis().await;
    let second = customer.place_order("one", &[(product, 1)]).await;
    assert_eq!((second.status, &second.body), (201, &first.body));
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(fleet.database.number("select count(*) from orders").await, 1);
}

#[tokio::test]
async fn a_key_belongs_to_one_body_one_user_and_one_route() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(10, 250).await;
    let (ada, bob) = (fleet.client.register().await, fleet.client.register().await);
    let first = ada.place_order("k", &[(product, 1)]).await.expect(201);
    ada.place_order("k", &[(product, 2)]).await.expect_problem(422, "idempotency_key_reused");
    let other = bob.place_order("k", &[(product, 1)]).await.expect(201);
    assert_ne!(first["id"], other["id"]);
    let cancel = format!("/v1/orders/{}/cancel", first["id"].as_str().unwrap());
    let cancelled = ada.post_with_key(&cancel, "k", &json!({})).await;
    assert_eq!(cancelled.expect(200)["status"], "cancelled");
}

#[tokio::test]
async fn what_was_rolled_back_is_not_remembered() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(1, 250).await;
    let customer = fleet.client.register().await;
    let refused = customer.place_order("k", &[(product, 5)]).await;
    refused.expect_problem(409, "out_of_stock");
    let stock = format!("/v1/products/{product}/stock");
    admin.post(&stock, &json!({ "delta": 10 })).await.expect(200);
    customer.place_order("k", &[(product, 5)]).await.expect(201);
}

#[tokio::test]
async fn an_order_needs_a_key_of_sensible_form() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(10, 250).await;
    let customer = fleet.client.register().await;
    let body = order(&[(product, 1)]);
    customer.post("/v1/orders", &body).await.expect_problem(400, "idempotency_key_missing");
    let long = "k".repeat(300);
    let refused = customer.post_with_key("/v1/orders", &long, &body).await;
    refused.expect_problem(400, "idempotency_key_invalid");
    let quoted = customer.post_with_key("/v1/orders", "\"k\"", &body).await;
    let bare = customer.post_with_key("/v1/orders", "k", &body).await;
    assert_eq!(quoted.expect(201), bare.expect(201));
}

#[tokio::test]
async fn an_answer_is_forgotten_after_a_day() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(10, 250).await;
    let customer = fleet.client.register().await;
    let first = customer.place_order("k", &[(product, 1)]).await.expect(201);
    let mut connection = fleet.database.connect().await;
    sqlx::query("update idempotency_keys set created_at = now() - interval '25 hours'")
        .execute(&mut connection)
        .await
        .unwrap();
    let second = customer.place_order("k", &[(product, 2)]).await.expect(201);
    assert_ne!(first["id"], second["id"]);
    let third = customer.place_order("k", &[(product, 2)]).await.expect(201);
    assert_eq!(second["id"], third["id"]);
}

#[tokio::test]
async fn every_post_of_a_user_takes_a_key() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let body = json!({ "sku": "A", "name": "A", "description": "A", "unit_amount": 1,
        "currency": "EUR", "stock": 5 });
    let first = admin.post_with_key("/v1/products", "k", &body).await;
    let again = admin.post_with_key("/v1/products", "k", &body).await;
    assert_eq!(first.expect(201), again.expect(201));
    assert_eq!(again.header("etag"), "\"1\"");
    let product = first.json()["id"].as_str().unwrap().to_owned();
    let stock = format!("/v1/products/{product}/stock");
    for _ in 0..3 {
        let adjusted = admin.post_with_key(&stock, "s", &json!({ "delta": 7 })).await;
        assert_eq!(adjusted.expect(200)["stock"], 12);
    }
    let request = admin.request(Method::GET, &stock);
    assert_eq!(Reply::of(request).await.expect(200)["stock"], 12);
}
