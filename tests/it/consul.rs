//! Registration with Consul: what is told to the agent and when, and that nobody waits for it.

use std::net::SocketAddr;

use deadpool_redis::redis::{Client as Redis, cmd};
use lab::process::Signal;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    Agent, Client, Cluster, Fleet, FleetBuilder, Mood, Reply, topology, unique, until,
};

const TOKEN: &str = "d1e2-token";

fn registered_with(agent: &Agent, fleet: FleetBuilder) -> FleetBuilder {
    fleet.set("CONSUL_HTTP_ADDR", &agent.address.to_string()).set("CONSUL_HTTP_TOKEN", TOKEN)
}

async fn members(admin: &Client) -> Vec<Value> {
    admin.get("/v1/admin/fleet").await.expect(200)["data"].as_array().unwrap().clone()
}

/// Whether Consul is told of, and passes, everybody.
async fn all_pass(admin: &Client) -> bool {
    members(admin).await.iter().all(|member| member["passes_in_consul"] == true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_ready_is_registered_and_found() {
    let agent = Agent::start(TOKEN).await;
    let fleet = registered_with(&agent, Fleet::of(2)).set("SHOAL_CONSUL_SERVICE", "shop");
    let fleet = fleet.set("SHOAL_CONSUL_TAGS", "blue, v2").start().await;
    let admin = fleet.admin().await;
    until(async || agent.services().len() == 2).await;
    until(async || all_pass(&admin).await).await;
    let members = members(&admin).await;
    for service in agent.services() {
        let port = service["Port"].as_u64().unwrap();
        let address = format!("127.0.0.1:{port}");
        let member = members.iter().find(|member| member["address"] == address).unwrap();
        let id = member["id"].as_str().unwrap();
        let expected = json!({
            "ID": format!("shop-{id}"),
            "Name": "shop",
            "Tags": ["blue", "v2"],
            "Address": "127.0.0.1",
            "Port": port,
            "Meta": { "role": "api", "version": env!("CARGO_PKG_VERSION") },
            "Check": {
                "Name": "readiness",
                "HTTP": format!("http://{address}/health/ready"),
                "Interval": "2s",
                "Timeout": "2s",
                "DeregisterCriticalServiceAfter": "1m",
            },
        });
        assert_eq!(service, expected);
    }
    let one = registered_with(&agent, Fleet::of(1)).with_workers().start().await;
    until(async || agent.services().len() == 3).await;
    let services = agent.services();
    let both = services.iter().find(|service| service["Name"] == "shoal").unwrap();
    assert_eq!(both["Tags"], json!(["worker"]));
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_registered_apart() {
    let agent = Agent::start(TOKEN).await;
    let cluster = start(&agent, 1, &[]).await;
    let mut worker = cluster.worker("worker");
    until(async || agent.services().len() == 2).await;
    let services = agent.services();
    let registered = services.iter().find(|service| service["Name"] == "shoal-worker").unwrap();
    assert_eq!(registered["Port"], worker.port());
    let admin = cluster.admin().await;
    until(async || all_pass(&admin).await && members(&admin).await.len() == 2).await;
    worker.process().signal(Signal::TERM);
    until(async || agent.services().len() == 1).await;
    assert_eq!(agent.services()[0]["Name"], "shoal");
}

/// Processes of their own.
async fn start(agent: &Agent, replicas: usize, own: &[(&str, &str)]) -> Cluster {
    let address = agent.address.to_string();
    let mut settings = vec![("CONSUL_HTTP_ADDR", &*address), ("CONSUL_HTTP_TOKEN", TOKEN)];
    settings.extend(own);
    Cluster::start(replicas, &settings).await
}

/// A request whose body is yet to come.
async fn begin_login(address: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/auth/login HTTP/1.1\r\nHost: shoal\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// What the process with this lease says of itself, null if it has none.
async fn lease(members: &str, id: &str) -> Value {
    let redis = Redis::open(topology().redis_url.as_str()).unwrap();
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    let says: Option<String> =
        cmd("HGET").arg(members).arg(id).query_async(&mut connection).await.unwrap();
    says.map_or(Value::Null, |says| serde_json::from_str(&says).unwrap())
}

/// Readiness says no, what is served is finished, Consul is told, the lease ends, the process does.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_finished_before_consul_is_told_and_the_lease_ends() {
    let prefix = unique("fleet");
    let leases = format!("{prefix}:{{fleet}}:members");
    let agent = Agent::looking(TOKEN, move |service| {
        let leases = leases.clone();
        Box::pin(async move { lease(&leases, service.strip_prefix("shoal-").unwrap()).await })
    })
    .await;
    let patient = [
        ("SHOAL_REDIS_PREFIX", &*prefix),
        ("SHOAL_REQUEST_TIMEOUT_MS", "100000"),
        ("SHOAL_BODY_TIMEOUT_MS", "100000"),
        ("SHOAL_DRAIN_CAP_MS", "100000"),
    ];
    let mut cluster = start(&agent, 2, &patient).await;
    let (address, stays) = (cluster.address(0), cluster.address(1));
    let admin = cluster.admin().await.with_addresses(vec![stays]);
    until(async || agent.services().len() == 2 && all_pass(&admin).await).await;
    let leaving = async || {
        let members = members(&admin).await;
        members.into_iter().find(|member| member["address"] == address.to_string())
    };
    let id = format!("shoal-{}", leaving().await.unwrap()["id"].as_str().unwrap());

    let body = json!({ "email": "nobody@shoal.test", "password": "a-long-password" }).to_string();
    let mut begun = begin_login(address, &body).await;
    cluster.replicas[0].process().signal(Signal::TERM);
    until(async || leaving().await.unwrap()["status"] == "draining").await;
    // Its check says so, and whoever goes by Consul comes to the other one.
    until(async || leaving().await.unwrap()["passes_in_consul"] == false).await;
    until(async || TcpStream::connect(address).await.is_err()).await;
    // An agent that forgets is told anew by who stays, and by nobody else.
    for _ in 0..2 {
        agent.forget();
        until(async || !agent.services().is_empty()).await;
        assert!(agent.services().iter().all(|service| service["ID"] != id));
    }
    assert_eq!(agent.deregistered(), [], "a request is still in progress");

    begun.write_all(body.as_bytes()).await.unwrap();
    Reply::read(&mut begun).await.expect_problem(401, "unauthorized");
    let process = cluster.replicas[0].process();
    until(async || process.exit_status().is_some()).await;
    assert!(process.exit_status().unwrap().success(), "see {}", process.log().display());
    let [(told, seen)] = &agent.deregistered()[..] else { panic!("told once, by one") };
    assert_eq!(*told, id);
    assert_eq!(seen["status"], "draining", "its lease ends after that");
    assert_eq!(leaving().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_started_anew_is_told_again() {
    let agent = Agent::start(TOKEN).await;
    let mut fleet = registered_with(&agent, Fleet::of(1)).start().await;
    let admin = fleet.admin().await;
    until(async || agent.services().len() == 1 && all_pass(&admin).await).await;
    let before = agent.services();
    agent.forget();
    assert_eq!(members(&admin).await[0]["passes_in_consul"], false);
    until(async || agent.services() == before && all_pass(&admin).await).await;
    assert_eq!(agent.registered(), 2);
    fleet.replicas[0].stop().await;
    assert_eq!(agent.services(), Vec::<Value>::new());
}

/// What was killed tells nobody: its check fails, which is for the agent to see.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_does_not_pass_any_more() {
    let agent = Agent::start(TOKEN).await;
    let mut cluster = start(&agent, 2, &[("SHOAL_FLEET_LEASE_MS", "600000")]).await;
    let admin = cluster.admin().await.with_addresses(vec![cluster.address(0)]);
    until(async || agent.services().len() == 2 && all_pass(&admin).await).await;
    let address = cluster.address(1).to_string();
    cluster.replicas[1].process().kill();
    let members = members(&admin).await;
    assert_eq!(members.len(), 2, "its lease is long");
    for member in members {
        assert_eq!(member["passes_in_consul"], member["address"] != address, "{member}");
    }
    assert_eq!(agent.deregistered(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_or_is_silent_is_nobodys_loss() {
    for mood in [Mood::Fails, Mood::Silent] {
        let agent = Agent::start(TOKEN).await;
        agent.set(mood);
        let mut fleet = registered_with(&agent, Fleet::of(1)).start().await;
        let admin = fleet.admin().await;
        let product = admin.create_product(10, 100).await;
        fleet.client.register().await.place_order("k", &[(product, 1)]).await.expect(201);
        until(async || agent.asked() > 0).await;
        // The list is the fleet's own; what Consul thinks is not known.
        until(async || members(&admin).await.len() == 1).await;
        assert!(members(&admin).await[0].get("passes_in_consul").is_none());
        assert_eq!(agent.registered(), 0);
        agent.set(Mood::Well);
        until(async || agent.services().len() == 1 && all_pass(&admin).await).await;
        agent.set(mood);
        fleet.replicas[0].stop().await;
        assert_eq!(agent.deregistered(), [], "it left without having been heard");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_there_or_refuses_is_nobodys_loss() {
    let agent = Agent::start("another token").await;
    let nobody = lab::ports::Port::free().unwrap();
    for address in [agent.address.to_string(), format!("127.0.0.1:{}", nobody.number())] {
        let fleet = Fleet::of(1).set("CONSUL_HTTP_ADDR", &address);
        let mut fleet = fleet.set("CONSUL_HTTP_TOKEN", TOKEN).start().await;
        let admin = fleet.admin().await;
        until(async || members(&admin).await.len() == 1).await;
        assert!(members(&admin).await[0].get("passes_in_consul").is_none());
        fleet.replicas[0].stop().await;
    }
    assert!(agent.asked() > 0);
    assert_eq!(agent.services(), Vec::<Value>::new());
}
