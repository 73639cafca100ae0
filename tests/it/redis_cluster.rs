//! Everything that is kept in Redis, kept in a Redis Cluster: three nodes with a third of the
//! slots each, where a script whose keys are apart is refused.

use lab::{redis::RedisCluster, site::Site};
use serde_json::json;

use crate::support::{Fleet, Reply, metric, topology, unique, until};

const ALONE: &str = "rate_limit_decisions_total{decision=\"local_allowed\",policy=\"default\"}";
const LEFT_ALONE: &str = "circuit_breaker_state{target=\"redis\"}";

#[tokio::test(flavor = "multi_thread")]
async fn limits_sessions_positions_and_caches_work_on_a_cluster() {
    let site = Site::beside(topology(), &unique("cluster")).unwrap();
    let cluster = RedisCluster::start(&site, "redis").unwrap();
    let fleet = Fleet::of(2).set("REDIS_URL", &cluster.url()).start().await;
    let admin = fleet.admin().await;
    // Enough keys for each node to have some.
    for turn in 0..6 {
        let customer = fleet.client.register().await;
        let product = admin.create_product(100, 100).await;
        let path = format!("/v1/products/{product}");
        let is_hit = |reply: Reply| reply.header("cache-status").starts_with("shoal; hit");
        until(async || is_hit(fleet.client.get(&path).await)).await;
        until(async || is_hit(fleet.client.get("/v1/products?limit=5").await)).await;
        let name = format!("Turn {turn}");
        let changed = admin.patch(&path, &json!({ "name": name })).await;
        changed.expect(200);
        for replica in 0..2 {
            let seen = admin.with_addresses(vec![fleet.replicas[replica].address]);
            assert_eq!(seen.get(&path).await.expect(200)["name"], name);
            until(async || fleet.only(replica).get(&path).await.expect(200)["name"] == name).await;
        }
        let order = customer.place_order("k", &[(product, 1)]).await;
        assert!(!order.header("consistency-token").is_empty());
        let order = format!("/v1/orders/{}", order.expect(201)["id"].as_str().unwrap());
        for _ in 0..4 {
            customer.get(&order).await.expect(200);
        }
        customer.post("/v1/auth/logout", &json!({})).await.expect(204);
        customer.until_refused().await;
    }
    let members = async || admin.get("/v1/admin/fleet").await.expect(200)["data"].clone();
    until(async || members().await.as_array().unwrap().len() == 2).await;
    assert_eq!(metric(&fleet, ALONE), 0.0, "each request was counted by the cluster");
    assert_eq!(metric(&fleet, LEFT_ALONE), 0.0);
}
