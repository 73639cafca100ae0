//! Who runs: leases in Redis, and what becomes of them when processes end, die and freeze, and when
//! Redis does.

use std::collections::BTreeSet;

use lab::{fault::FaultProxy, process::Signal};
use reqwest::Method;
use serde_json::Value;

use crate::support::{Answer, Client, Cluster, Fleet, Receiver, own_redis, topology, until};

const FLEET: &str = "/v1/admin/fleet";

/// What is not heard of for this long is gone.
const SHORT_LEASE: (&str, &str) = ("SHOAL_FLEET_LEASE_MS", "1000");
/// Nothing ends by itself during a test.
const LONG_LEASE: &str = "600000";

async fn list(admin: &Client) -> Vec<Value> {
    admin.get(FLEET).await.expect(200)["data"].as_array().unwrap().clone()
}

/// The one that is reached at this port.
fn at(members: &[Value], port: u16) -> Option<&Value> {
    members.iter().find(|member| member["address"] == format!("127.0.0.1:{port}"))
}

async fn until_listed(admin: &Client, ports: &[u16]) {
    let ports: BTreeSet<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    until(async || {
        let reply = admin.get(FLEET).await;
        if reply.status == 503 {
            // Redis may just have come back.
            return false;
        }
        let reply = reply.expect(200);
        let members = reply["data"].as_array().unwrap();
        let ready = members.iter().filter(|member| member["status"] == "ready");
        let listed: BTreeSet<_> =
            ready.map(|member| member["address"].as_str().unwrap().to_owned()).collect();
        listed == ports && members.len() == ports.len()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_workers_are_listed_with_what_they_are() {
    let cluster = Cluster::start(2, &[]).await;
    let worker = cluster.worker("worker");
    let admin = cluster.admin().await;
    let replicas = [cluster.replicas[0].port(), cluster.replicas[1].port()];
    until_listed(&admin, &[replicas[0], replicas[1], worker.port()]).await;
    let members = list(&admin).await;
    for (port, role) in [(replicas[0], "api"), (replicas[1], "api"), (worker.port(), "worker")] {
        let member = at(&members, port).unwrap();
        assert_eq!(member["role"], role);
        assert_eq!(member["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&member["degraded"], &member["away"]), (&false.into(), &Value::Array(vec![])));
        for time in ["started_at", "lease_expires_at"] {
            assert!(member[time].as_str().unwrap().ends_with('Z'), "{member}");
        }
        assert!(member.get("passes_in_consul").is_none(), "there is no Consul");
    }
    let ids: Vec<_> = members.iter().map(|member| member["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted(), "the longest running first: {ids:?}");
    // Every process counts the same.
    let metrics = cluster.only(1).get("/metrics").await;
    let size = metrics.expect_text(200).lines().find(|line| line.starts_with("fleet_members "));
    assert!(size.is_some_and(|line| line != "fleet_members 0"), "{size:?}");

    cluster.client.register().await.get(FLEET).await.expect_problem(403, "forbidden");
    cluster.client.get(FLEET).await.expect_problem(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_is_off_the_list_once_its_lease_is_over() {
    let mut cluster = Cluster::start(2, &[SHORT_LEASE]).await;
    let mut worker = cluster.worker("worker");
    let admin = cluster.admin().await;
    let admin = admin.with_addresses(vec![cluster.address(0)]);
    let replicas = [cluster.replicas[0].port(), cluster.replicas[1].port()];
    until_listed(&admin, &[replicas[0], replicas[1], worker.port()]).await;
    worker.process().kill();
    until_listed(&admin, &replicas).await;
    cluster.replicas[1].process().kill();
    until_listed(&admin, &replicas[..1]).await;
    // Nor does anything stay of them where nobody looks.
    until(async || {
        let metrics = admin.get("/metrics").await;
        metrics.expect_text(200).lines().any(|line| line == "fleet_members 1")
    })
    .await;
}

/// As while a deployment changes the setting.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_lease_shortens_no_other() {
    let patient = Fleet::of(1).set("SHOAL_FLEET_LEASE_MS", LONG_LEASE).start().await;
    let prefix = &patient.database.name;
    let mut hasty = Cluster::start(1, &[("SHOAL_REDIS_PREFIX", prefix), SHORT_LEASE]).await;
    let admin = patient.admin().await;
    let port = patient.replicas[0].address.port();
    until_listed(&admin, &[port, hasty.replicas[0].port()]).await;
    for key in ["leases", "members"] {
        let key = patient.app().redis.key(format_args!("{{fleet}}:{key}"));
        let ttl: i64 = ask(&topology().redis_url, "PTTL", &key).await;
        assert!(ttl > 100_000, "{ttl}");
    }
    // What has ended is not told of, though nobody renews and so sweeps.
    hasty.replicas[0].process().kill();
    until_listed(&admin, &[port]).await;
}

/// What it says after it thaws it says of itself, whoever has come in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_leaves_the_list_and_comes_back_as_itself() {
    let mut cluster = Cluster::start(2, &[SHORT_LEASE]).await;
    let admin = cluster.admin().await;
    let admin = admin.with_addresses(vec![cluster.address(0)]);
    let ports = [cluster.replicas[0].port(), cluster.replicas[1].port()];
    until_listed(&admin, &ports).await;
    let before = at(&list(&admin).await, ports[1]).unwrap()["id"].clone();
    cluster.replicas[1].process().pause();
    until_listed(&admin, &ports[..1]).await;
    let successor = cluster.worker("successor");
    until_listed(&admin, &[ports[0], successor.port()]).await;
    let succeeding = at(&list(&admin).await, successor.port()).unwrap()["id"].clone();
    cluster.replicas[1].process().resume();
    until_listed(&admin, &[ports[0], ports[1], successor.port()]).await;
    let members = list(&admin).await;
    assert_eq!(at(&members, ports[1]).unwrap()["id"], before);
    assert_eq!(at(&members, successor.port()).unwrap()["id"], succeeding);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drains_says_so_at_once() {
    let fleet = Fleet::of(2).set("SHOAL_FLEET_LEASE_MS", LONG_LEASE);
    let mut fleet = fleet.set("SHOAL_DRAIN_DELAY_MS", "600000").start().await;
    let admin = fleet.admin().await.with_addresses(vec![fleet.replicas[1].address]);
    let ports: Vec<u16> = fleet.replicas.iter().map(|replica| replica.address.port()).collect();
    until_listed(&admin, &ports).await;
    let mut leaving = fleet.replicas.remove(0);
    let tasks = leaving.app.tasks.clone();
    let stopping = tokio::spawn(async move { leaving.stop().await });
    // Its lease would have been renewed in 200 s, and its delay would take longer still.
    until(async || at(&list(&admin).await, ports[0]).unwrap()["status"] == "draining").await;
    assert!(tasks.is_draining() && !stopping.is_finished());
    assert_eq!(at(&list(&admin).await, ports[1]).unwrap()["status"], "ready");
    stopping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_ended_is_off_the_list() {
    let mut leaving = Fleet::of(1).set("SHOAL_FLEET_LEASE_MS", LONG_LEASE).start().await;
    let admin = leaving.admin().await;
    let app = leaving.app().clone();
    until_listed(&admin, &[leaving.replicas[0].address.port()]).await;
    leaving.replicas[0].stop().await;
    // Asked past the process, which has closed its way to Redis, and long before the lease ends.
    let members = app.redis.key("{fleet}:members");
    let left: i64 = ask(&topology().redis_url, "HLEN", &members).await;
    assert_eq!(left, 0);
}

async fn ask(redis: &str, command: &str, key: &str) -> i64 {
    use deadpool_redis::redis::{Client, cmd};
    let client = Client::open(redis).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    cmd(command).arg(key).query_async(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_end_leaves_the_list() {
    let cluster = Cluster::start(1, &[("SHOAL_FLEET_LEASE_MS", LONG_LEASE)]).await;
    let mut worker = cluster.worker("worker");
    let admin = cluster.admin().await;
    let port = cluster.replicas[0].port();
    until_listed(&admin, &[port, worker.port()]).await;
    worker.process().signal(Signal::TERM);
    until_listed(&admin, &[port]).await;
    until(async || worker.process().exit_status().is_some()).await;
    assert!(worker.process().exit_status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_finishes_a_job_says_that_it_drains() {
    let provider = Receiver::start(|_| Answer::Hang).await;
    let settings = [
        ("SHOAL_FLEET_LEASE_MS", LONG_LEASE),
        ("SHOAL_PAYMENTS_URL", &*provider.url("/")),
        ("SHOAL_PAYMENTS_TIMEOUT_MS", "45000"),
    ];
    let cluster = Cluster::start(1, &settings).await;
    let mut worker = cluster.worker("worker");
    let admin = cluster.admin().await;
    let product = admin.create_product(10, 100).await;
    cluster.client.register().await.place_order("k", &[(product, 1)]).await.expect(201);
    until(async || provider.hanging() == 1).await;
    worker.process().signal(Signal::TERM);
    until(async || at(&list(&admin).await, worker.port()).unwrap()["status"] == "draining").await;
    assert_eq!(provider.hanging(), 1, "it works on");
}

/// Neither lists nor agents are worth waiting for: others see by the lease that it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent_keeps_nobody_from_ending() {
    let mut redis = own_redis();
    let settings = [("REDIS_URL", &*redis.url()), ("SHOAL_REDIS_TIMEOUT_MS", "60000")];
    let mut cluster = Cluster::start(1, &settings).await;
    let port = cluster.replicas[0].port();
    until_listed(&cluster.admin().await, &[port]).await;
    redis.process().pause();
    let replica = cluster.replicas[0].process();
    replica.signal(Signal::TERM);
    until(async || replica.exit_status().is_some()).await;
    assert!(replica.exit_status().unwrap().success());
    // It did not wait for what ends silence at last, the connection's own patience.
    let log = std::fs::read_to_string(replica.log()).unwrap();
    assert!(log.contains("\"left the fleet without a word\""), "{log}");
    redis.process().resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_does_not_reach_is_told_to_the_others() {
    let way = FaultProxy::before(topology().replicas[0].pooler_port).unwrap();
    let fleet = Fleet::of(1).replica_pooler(way.port()).start().await;
    let admin = fleet.admin().await;
    let port = fleet.replicas[0].address.port();
    let away = async || at(&list(&admin).await, port).unwrap()["away"].clone();
    until(async || away().await == serde_json::json!([])).await;
    way.set(lab::fault::Fault::Down).unwrap();
    until(async || away().await == serde_json::json!(["replica-1"])).await;
    assert_eq!(at(&list(&admin).await, port).unwrap()["degraded"], true);
    way.clear().unwrap();
    until(async || away().await == serde_json::json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_go_and_come_back_and_forget() {
    let mut redis = own_redis();
    let settings = [("REDIS_URL", &*redis.url()), ("SHOAL_FLEET_LEASE_MS", "900")];
    let mut cluster = Cluster::start(2, &settings).await;
    let admin = cluster.admin().await;
    let ports = [cluster.replicas[0].port(), cluster.replicas[1].port()];
    until_listed(&admin, &ports).await;
    crate::support::ask_redis::<String>(&redis, "FLUSHALL").await;
    until_listed(&admin, &ports).await;

    redis.process().kill();
    // Nobody else asks Redis for anything: each of these failures is a lease that was not renewed.
    let metrics = cluster.only(0);
    until(async || {
        let open = "circuit_breaker_state{target=\"redis\"} 1";
        metrics.get("/metrics").await.expect_text(200).lines().any(|line| line == open)
    })
    .await;
    let refused = admin.get(FLEET).await;
    refused.expect_problem(503, "redis_unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    admin.request(Method::GET, "/v1/products").send().await.unwrap().error_for_status().unwrap();

    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    until(async || admin.get(FLEET).await.status == 200).await;
    until_listed(&admin, &ports).await;
    let log = cluster.replicas[0].process().log().to_owned();
    let told =
        |line: &str| std::fs::read_to_string(&log).unwrap().matches(&format!("\"{line}\"")).count();
    until(async || told("listed in the fleet again") > 0).await;
    assert_eq!((told("not listed in the fleet"), told("listed in the fleet again")), (1, 1));
}
