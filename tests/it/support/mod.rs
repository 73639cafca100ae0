//! What the tests share: a database of one's own, replicas in front of it, and a client whose
//! methods are named after requests.

mod agent;
mod audited;
mod bucket;
mod client;
mod cluster;
pub mod crew;
mod database;
pub mod errands;
mod fleet;
mod forger;
mod live;
mod load;
mod raw;
mod receiver;
mod uploads;

pub use self::{
    agent::{Agent, Mood},
    audited::{Audited, DEPLOYMENT},
    bucket::Bucket,
    client::{Client, PASSWORD, Reply, order},
    cluster::Cluster,
    crew::Crew,
    database::Database,
    fleet::{Fleet, FleetBuilder, Replica, ask_redis, environment, own_redis},
    forger::{Forger, replace},
    live::{Block, Live},
    load::Load,
    raw::HANG,
    receiver::{Answer, Received, Receiver},
    uploads::{File, objects},
};

use lab::{
    pgbouncer::PgBouncer, ports::Port, postgres::OwnPostgres, site::Site, topology::Topology,
};
use std::{path::Path, sync::OnceLock};

/// The servers that `cargo lab test` has started for this process.
pub fn topology() -> &'static Topology {
    static TOPOLOGY: OnceLock<Topology> = OnceLock::new();
    TOPOLOGY.get_or_init(|| Topology::from_env().unwrap_or_else(|error| panic!("{error}")))
}

/// A name that nothing else has: for databases, keys and addresses.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

/// A PgBouncer of the test's own, in front of one of the lab's databases.
pub fn pgbouncer(postgres_port: u16) -> PgBouncer {
    let site = Site::beside(topology(), &unique("pgbouncer")).unwrap();
    PgBouncer::start(&site, "pgbouncer", Port::free().unwrap(), postgres_port).unwrap()
}

/// A primary with replicas of the test's own, with the current schema: for tests that lag or pause a
/// replica, or stop or promote a server. Takes half a second.
pub fn own_postgres(replicas: usize) -> OwnPostgres {
    OwnPostgres::start(topology(), Path::new(env!("CARGO_BIN_EXE_shoal")), replicas).unwrap()
}

/// Stops it and starts it again. Returns once it accepts connections.
pub async fn restart(pooler: &mut PgBouncer) {
    pooler.process().restart().unwrap();
    let address = ("127.0.0.1", pooler.port());
    until(async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
}

/// The value of one series of the first replica's metrics, 0 where it is missing.
pub fn metric(fleet: &Fleet, series: &str) -> f64 {
    metric_of(&fleet.replicas[0], series)
}

/// The same of any replica.
pub fn metric_of(replica: &Replica, series: &str) -> f64 {
    let text = String::from_utf8(replica.app.metrics.render().unwrap()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// A bounded wait for what becomes true by itself.
pub async fn until(mut is_true: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if is_true().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("did not become true");
}
