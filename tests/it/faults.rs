//! The service behind ways that fail, and on databases that lag: that the tests' faults reach it.

use lab::fault::{Fault, FaultProxy};

use crate::support::{Fleet, own_postgres, topology, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_swallows_everything_is_done_without() {
    let redis = lab_redis();
    let fleet =
        Fleet::of(1).redis_through(redis.port()).set("SHOAL_REDIS_TIMEOUT_MS", "100").start().await;
    let customer = fleet.client.register().await;
    customer.get("/v1/users/me").await.expect(200);
    redis.set(Fault::Drop).unwrap();
    customer.get("/v1/users/me").await.expect(200);
    let degraded = async |expected: bool| {
        let ready = customer.get("/health/ready").await.expect(200);
        ready["degraded"].as_bool().unwrap_or_default() == expected
    };
    until(async || {
        customer.get("/v1/users/me").await.expect(200);
        degraded(true).await
    })
    .await;
    redis.clear().unwrap();
    until(async || {
        customer.get("/v1/users/me").await.expect(200);
        degraded(false).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_read_while_every_replica_stands_still() {
    let mut own = own_postgres(2);
    let ways: Vec<FaultProxy> = own
        .replicas
        .iter()
        .map(|replica| FaultProxy::before(replica.pooler.port()).unwrap())
        .collect();
    let ports: Vec<u16> = ways.iter().map(FaultProxy::port).collect();
    let fleet = Fleet::of(2).postgres(&own).await.replica_poolers(&ports).start().await;
    fleet.database.replicated().await;
    for replica in &mut own.replicas {
        replica.postgres.pause_replay().unwrap();
    }
    let product = fleet.admin().await.create_product(10, 100).await;
    let customer = fleet.client.register().await;
    let order = customer.place_order("k", &[(product, 1)]).await.expect(201);
    let path = format!("/v1/orders/{}", order["id"].as_str().unwrap());
    for _ in 0..4 {
        assert_eq!(customer.get(&path).await.expect(200), order);
    }
    for replica in &mut own.replicas {
        replica.postgres.resume_replay().unwrap();
    }
    fleet.database.replicated().await;
    assert!(ways.iter().all(|way| way.accepted() > 0), "a replica was never used");
}

fn lab_redis() -> FaultProxy {
    let (_, port) = topology().redis_url.rsplit_once(':').unwrap();
    FaultProxy::before(port.parse().unwrap()).unwrap()
}
