//! Replicas as processes of their own, with nginx in front: for signals and kills.

use std::{net::SocketAddr, path::Path};

use lab::{
    api::{Api, Shoal, Worker},
    nginx::Nginx,
    ports::Port,
    site::Site,
};

use super::{Client, Database, topology, unique};

/// Dropping it stops what it started.
pub struct Cluster {
    pub database: Database,
    /// Talks to nginx.
    pub client: Client,
    pub replicas: Vec<Api>,
    _nginx: Nginx,
    site: Site,
    shoal: Shoal,
}

impl Cluster {
    /// With the settings of the lab, and `settings` on top of them.
    pub async fn start(replicas: usize, settings: &[(&str, &str)]) -> Self {
        let database = Database::create().await;
        let site = Site::beside(topology(), &database.name).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_shoal"));
        let mut shoal = Shoal::new(topology(), &database.name, binary)
            .with_signing_key(&site)
            .unwrap()
            .with_setting("SHOAL_REDIS_PREFIX", &database.name)
            .with_setting("SHOAL_S3_PREFIX", &database.name)
            .with_setting("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "4000")
            .with_setting("SHOAL_DB_LOOK_TIMEOUT_MS", "4000")
            .with_setting("SHOAL_REDIS_TIMEOUT_MS", "1000")
            .with_setting("SHOAL_CONCURRENCY_MIN", "1024")
            .with_setting("SHOAL_JOB_POLL_MS", "100")
            .with_setting("SHOAL_RATE_LIMIT_DEFAULT", "1000000/60")
            .with_setting("SHOAL_RATE_LIMIT_WRITE", "1000000/60")
            .with_setting("SHOAL_RATE_LIMIT_LOGIN_IP", "1000000/60");
        for (name, value) in settings {
            shoal = shoal.with_setting(name, value);
        }
        let start = |index| {
            let name = format!("api-{index}");
            Api::start(&site, &name, Port::free().unwrap(), &shoal).unwrap()
        };
        let replicas: Vec<Api> = (1..=replicas).map(start).collect();
        let upstreams: Vec<SocketAddr> = replicas.iter().map(address).collect();
        let nginx = Nginx::start(&site, "nginx", Port::free().unwrap(), &upstreams).unwrap();
        let client = Client::new(vec![SocketAddr::from(([127, 0, 0, 1], nginx.port()))]);
        Self { database, client, replicas, _nginx: nginx, site, shoal }
    }

    pub fn address(&self, replica: usize) -> SocketAddr {
        address(&self.replicas[replica])
    }

    /// A client that goes past nginx to one replica.
    pub fn only(&self, replica: usize) -> Client {
        self.client.with_addresses(vec![address(&self.replicas[replica])])
    }

    /// Another worker.
    pub fn worker(&self, name: &str) -> Worker {
        Worker::start(&self.site, name, Port::free().unwrap(), &self.shoal).unwrap()
    }

    /// Runs a short command of the service: what it prints.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.shoal.run(arguments, "", "run a command").unwrap()
    }

    /// A new administrator, logged in.
    pub async fn admin(&self) -> Client {
        let email = format!("{}@shoal.test", unique("admin"));
        let create = ["admin", "create", "--email", &email, "--name", "Admin"];
        let password = format!("{}\n", super::PASSWORD);
        self.shoal.run(&create, &password, "make an administrator").unwrap();
        let reply = self.client.login(&email, super::PASSWORD).await.expect(200);
        self.client.with_token(reply["access_token"].as_str().unwrap())
    }
}

fn address(api: &Api) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], api.port()))
}
