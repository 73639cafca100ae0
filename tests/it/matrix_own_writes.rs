//! The failure matrix: one's own writes are seen and nobody's cache brings back what they replaced,
//! with replicas that lag, with Redis stopped or empty, and both.

use std::time::Duration;

use lab::{fault::Fault, postgres::OwnPostgres};
use reqwest::Method;
use serde_json::json;

use crate::{
    failover::ways,
    routing::in_rotation,
    support::{Client, Fleet, Reply, ask_redis, own_postgres, unique, until},
};

/// So that nobody leaves the rotation for its lag: what is read must not come from there all the same.
const NO_LIMIT: (&str, &str) = ("SHOAL_DB_MAX_REPLICA_LAG_MS", "600000");

const TOKEN: &str = "consistency-token";

fn delay(own: &mut OwnPostgres, delay: Duration) {
    for replica in &mut own.replicas {
        replica.postgres.set_apply_delay(delay).unwrap();
    }
}

async fn get_with(client: &Client, path: &str, token: &str) -> Reply {
    Reply::of(client.request(Method::GET, path).header(TOKEN, token)).await
}

/// Writes a few times, and looks on every replica after each.
async fn sees_its_own_writes(fleet: &Fleet, customer: &Client, admin: &Client) {
    for turn in 0..3 {
        let name = format!("Turn {turn}");
        let changed = customer.patch("/v1/users/me", &json!({ "name": name })).await;
        changed.expect(200);
        let product = admin
            .post(
                "/v1/products",
                &json!({
                    "sku": unique("SKU"), "name": unique("word"), "description": "A thing.",
                    "unit_amount": 100, "currency": "EUR", "stock": 10,
                }),
            )
            .await;
        let body = product.expect(201);
        let id = body["id"].as_str().unwrap();
        let order = customer.place_order(&unique("k"), &[(id.parse().unwrap(), 1)]).await;
        let order_path = format!("/v1/orders/{}", order.expect(201)["id"].as_str().unwrap());
        for replica in 0..fleet.replicas.len() {
            let anonymous = fleet.only(replica);
            let own = anonymous.with_token(customer.token());
            for _ in 0..2 {
                assert_eq!(own.get("/v1/users/me").await.expect(200)["name"], name);
                assert_eq!(own.get(&order_path).await.expect(200), order.json());
                let token = changed.header(TOKEN);
                assert_eq!(get_with(&own, "/v1/users/me", token).await.expect(200)["name"], name);
                let token = order.header(TOKEN);
                assert_eq!(get_with(&own, &order_path, token).await.expect(200), order.json());
                // Nobody is known by it: the token is all there is.
                let token = product.header(TOKEN);
                let list = format!("/v1/products?q={}", body["name"].as_str().unwrap());
                let list = get_with(&anonymous, &list, token).await.expect(200);
                assert_eq!(list["data"][0]["id"], body["id"]);
            }
        }
    }
}

/// The worst of both at once.
#[tokio::test(flavor = "multi_thread")]
async fn with_ten_seconds_of_lag_and_redis_stopped() {
    let mut own = own_postgres(2);
    let fleet = Fleet::of(2).postgres(&own).await.set(NO_LIMIT.0, NO_LIMIT.1).own_redis();
    let mut fleet = fleet.start().await;
    in_rotation(&fleet, &[1, 2]).await;
    let (customer, admin) = (fleet.client.register().await, fleet.admin().await);
    delay(&mut own, Duration::from_secs(10));
    sees_its_own_writes(&fleet, &customer, &admin).await;
    fleet.redis.as_mut().unwrap().process().stop();
    sees_its_own_writes(&fleet, &customer, &admin).await;
    assert_eq!(fleet.app().db.states().iter().filter(|state| state.up).count(), 3);
}

/// Redis no longer knows how far the user is, and soon knows again that the session is live.
#[tokio::test(flavor = "multi_thread")]
async fn after_redis_lost_the_position() {
    let mut own = own_postgres(2);
    let fleet = Fleet::of(2).postgres(&own).await.set(NO_LIMIT.0, NO_LIMIT.1).own_redis();
    let fleet = fleet.start().await;
    in_rotation(&fleet, &[1, 2]).await;
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    delay(&mut own, Duration::from_secs(600));
    let order = customer.place_order("k", &[(product, 1)]).await.expect(201);
    let path = format!("/v1/orders/{}", order["id"].as_str().unwrap());
    for _ in 0..3 {
        fleet.flush_redis().await;
        let redis = fleet.redis.as_ref().unwrap();
        until(async || {
            assert_eq!(customer.get(&path).await.expect(200), order);
            !ask_redis::<Vec<String>>(redis, "KEYS *session:*").await.is_empty()
        })
        .await;
        for _ in 0..6 {
            assert_eq!(customer.get(&path).await.expect(200), order);
        }
    }
    assert_eq!(fleet.app().db.states().iter().filter(|state| state.up).count(), 3);
}

/// One replica of the service loads the old value; before that has come back to it, another one
/// changes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_does_not_bring_the_old_value_back() {
    let own = own_postgres(1);
    let ways = ways(&own);
    let prefix = unique("shared");
    let fleet = async || Fleet::of(1).postgres(&own).await.set("SHOAL_REDIS_PREFIX", &prefix);
    let slow = fleet().await.primary_pooler(ways[0].port()).set("SHOAL_DB_POOL_SIZE", "1");
    let (slow, fast) = (slow.start().await, fleet().await.start().await);
    let admin = fast.admin().await;
    let (first, product) = (admin.create_product(1, 1).await, admin.create_product(1, 1).await);
    let path = format!("/v1/products/{product}");
    let mut database = fast.database.connect().await;
    // The statement is prepared before it has to be quick.
    slow.client.get(&format!("/v1/products/{first}")).await.expect(200);
    let begun = "select clock_timestamp()::text";
    let begun: String = sqlx::query_scalar(begun).fetch_one(&mut database).await.unwrap();
    ways[0].set(Fault::Latency(Duration::from_secs(3))).unwrap();
    let client = slow.client.clone();
    let reader = tokio::spawn({
        let path = path.clone();
        async move { client.get(&path).await }
    });
    let is_loaded =
        "select exists (select from pg_stat_activity where query like '%from products where id%'
        and pid <> pg_backend_pid() and state = 'idle' and query_start > $1::timestamptz)";
    until(async || {
        let is_loaded = sqlx::query_scalar::<_, bool>(is_loaded).bind(&begun);
        is_loaded.fetch_one(&mut database).await.unwrap()
    })
    .await;
    admin.patch(&path, &json!({ "name": "New" })).await.expect(200);
    reader.await.unwrap().expect(200);
    ways[0].clear().unwrap();
    for _ in 0..10 {
        for fleet in [&slow, &fast] {
            assert_eq!(fleet.client.get(&path).await.expect(200)["name"], "New");
        }
    }
}
