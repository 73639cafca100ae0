//! Replicas of the API within the test's own process: real listeners, real servers behind them,
//! a state of their own each.

use std::{collections::HashMap, net::SocketAddr, sync::OnceLock};

use deadpool_redis::redis::{self, FromRedisValue, Value, cmd};
use lab::{postgres::OwnPostgres, redis::Redis, site::Site, topology::Topology};
use shoal::{
    app::{self, Role},
    config::Config,
    platform::shutdown::Tasks,
    state::{App, AppState},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{Client, Database, topology, unique};

/// Replicas that share a database, a Redis prefix and a signing key.
pub struct Fleet {
    pub database: Database,
    /// A client that goes round the replicas.
    pub client: Client,
    pub replicas: Vec<Replica>,
    /// A Redis of one's own, for tests that stop or flush it.
    pub redis: Option<Redis>,
}

pub struct Replica {
    pub address: SocketAddr,
    pub app: AppState,
    shutdown: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<anyhow::Result<()>>>,
}

/// How a fleet is to be.
#[derive(Default)]
pub struct FleetBuilder {
    replicas: usize,
    settings: HashMap<String, String>,
    own_redis: bool,
    works: bool,
    database: Option<Database>,
    /// Ports to use instead of the lab's: of servers of the test's own, or of proxies.
    redis: Option<u16>,
    primary_pooler: Option<u16>,
    replica_poolers: Option<Vec<u16>>,
}

impl Fleet {
    /// One replica with the settings of the tests.
    pub async fn one() -> Self {
        Self::of(1).start().await
    }

    pub fn of(replicas: usize) -> FleetBuilder {
        FleetBuilder { replicas, settings: HashMap::new(), ..FleetBuilder::default() }
    }

    /// A client that only talks to one replica.
    pub fn only(&self, replica: usize) -> Client {
        self.client.with_addresses(vec![self.replicas[replica].address])
    }

    /// The library's state of the first replica, for what no route offers.
    pub fn app(&self) -> &AppState {
        &self.replicas[0].app
    }
}

impl FleetBuilder {
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a Redis that the test may stop, flush or fill.
    pub fn own_redis(mut self) -> Self {
        self.own_redis = true;
        self
    }

    /// With replicas that run jobs as well.
    pub fn with_workers(mut self) -> Self {
        self.works = true;
        self
    }

    /// With Redis at another port: a proxy before the lab's, or before a [`Redis`] of the test's own.
    pub fn redis_through(mut self, port: u16) -> Self {
        self.redis = Some(port);
        self
    }

    /// On a primary and replicas of the test's own, which it may stop, lag and promote.
    pub async fn postgres(mut self, postgres: &OwnPostgres) -> Self {
        self.database = Some(Database::of(postgres).await);
        // Those databases all have the same name.
        self.set("SHOAL_REDIS_PREFIX", &unique("own"))
    }

    /// With the primary behind another PgBouncer, which the test may stop, or behind a proxy.
    pub fn primary_pooler(mut self, port: u16) -> Self {
        self.primary_pooler = Some(port);
        self
    }

    /// With one replica, behind another PgBouncer, which the test may stop, or behind a proxy.
    pub fn replica_pooler(self, port: u16) -> Self {
        self.replica_poolers(&[port])
    }

    /// With a replica behind each of these PgBouncers or proxies.
    pub fn replica_poolers(mut self, ports: &[u16]) -> Self {
        self.replica_poolers = Some(ports.to_vec());
        self
    }

    pub async fn start(self) -> Fleet {
        let is_to_be_broken = self.database.is_some()
            || self.primary_pooler.is_some()
            || self.replica_poolers.is_some();
        let database = match self.database {
            Some(database) => database,
            None => Database::create().await,
        };
        let redis = self.own_redis.then(own_redis);
        let mut settings = environment_of(&database.topology, &database.name);
        let mut replace = |name: &str, url: String| settings.insert(name.to_owned(), url);
        if is_to_be_broken {
            // And that is to be noticed soon.
            replace("SHOAL_DB_LOOK_TIMEOUT_MS", "1500".to_owned());
        }
        if let Some(redis) = &redis {
            replace("REDIS_URL", redis.url());
        }
        if let Some(port) = self.redis {
            replace("REDIS_URL", format!("redis://127.0.0.1:{port}"));
        }
        if let Some(port) = self.primary_pooler {
            replace("DATABASE_URL", pooled_url(port, &database.name));
        }
        if let Some(ports) = self.replica_poolers {
            let urls: Vec<_> =
                ports.into_iter().map(|port| pooled_url(port, &database.name)).collect();
            replace("DATABASE_REPLICA_URLS", urls.join(","));
        }
        settings.extend(self.settings);
        let mut replicas = Vec::with_capacity(self.replicas);
        let role = if self.works { Role::ApiAndWorker } else { Role::Api };
        for _ in 0..self.replicas {
            replicas.push(Replica::start(&settings, role).await);
        }
        let addresses = replicas.iter().map(|replica| replica.address).collect();
        let client = Client::new(addresses);
        for replica in &replicas {
            client.with_addresses(vec![replica.address]).until_ready().await;
        }
        Fleet { database, client, replicas, redis }
    }
}

impl Replica {
    async fn start(settings: &HashMap<String, String>, role: Role) -> Self {
        let config = Config::read(&|name: &str| settings.get(name).cloned()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App::new(&config, Tasks::default()).await.unwrap();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let state = app.clone();
        let served = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            app::run((listener, None), state, &config, role, stopped).await
        });
        Self { address, app, shutdown: Some(shutdown), served: Some(served) }
    }

    /// Drains and ends the replica, as SIGTERM does.
    pub async fn stop(&mut self) {
        drop(self.shutdown.take());
        if let Some(served) = self.served.take() {
            served.await.unwrap().unwrap();
        }
    }
}

/// A Redis of the test's own, as [`FleetBuilder::own_redis`] starts one.
pub fn own_redis() -> Redis {
    let name = unique("redis");
    let site = Site::beside(topology(), &name).unwrap();
    Redis::start(&site, "redis", lab::ports::Port::free().unwrap()).unwrap()
}

/// What it answers to a command whose arguments have no blanks in them.
pub async fn ask_redis<T: FromRedisValue>(redis: &Redis, command: &str) -> T {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut words = command.split(' ');
    let mut command = cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>());
    command.query_async(&mut connection).await.unwrap()
}

fn pooled_url(port: u16, database: &str) -> String {
    let app = &topology().app;
    format!("postgres://{}:{}@127.0.0.1:{port}/{database}", app.user, app.password)
}

/// The settings of a replica: the lab's servers, generous limits, no drain delay.
pub fn environment(database: &str) -> HashMap<String, String> {
    environment_of(topology(), database)
}

pub(super) fn environment_of(topology: &Topology, database: &str) -> HashMap<String, String> {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = KEY.get_or_init(|| shoal::platform::tokens::generate_key().unwrap());
    let s3 = topology.s3.clone();
    [
        ("DATABASE_URL", topology.app_url(database)),
        ("DATABASE_REPLICA_URLS", topology.app_replica_urls(database).join(",")),
        ("REDIS_URL", topology.redis_url.clone()),
        ("SHOAL_REDIS_PREFIX", database.to_owned()),
        ("S3_BUCKET", s3.bucket),
        // One bucket for all tests, whose sweeps know nothing of each other's files.
        ("SHOAL_S3_PREFIX", database.to_owned()),
        ("SHOAL_S3_TIMEOUT_MS", "10000".to_owned()),
        ("S3_ENDPOINT", s3.endpoint),
        ("SHOAL_S3_PATH_STYLE", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", s3.access_key),
        ("AWS_SECRET_ACCESS_KEY", s3.secret_key),
        ("JWT_PRIVATE_KEYS", key.clone()),
        ("TRUSTED_PROXIES", "127.0.0.1/32".to_owned()),
        // Tests that are not about limits must not meet them.
        ("SHOAL_RATE_LIMIT_DEFAULT", "1000000/60".to_owned()),
        ("SHOAL_RATE_LIMIT_WRITE", "1000000/60".to_owned()),
        ("SHOAL_RATE_LIMIT_LOGIN_IP", "1000000/60".to_owned()),
        // Neither to be refused because the machine is busy with other tests.
        ("SHOAL_CONCURRENCY_MIN", "1024".to_owned()),
        ("SHOAL_DRAIN_DELAY_MS", "0".to_owned()),
        // Receivers of webhooks are on the same machine.
        ("SHOAL_WEBHOOK_ALLOW_INSECURE", "true".to_owned()),
        // Work that nobody told of is found soon.
        ("SHOAL_JOB_POLL_MS", "100".to_owned()),
        // Many fleets share one Postgres.
        ("SHOAL_DB_POOL_SIZE", "5".to_owned()),
        // The machine that runs all tests at once is slower than any that serves.
        ("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "15000".to_owned()),
        ("SHOAL_DB_LOOK_TIMEOUT_MS", "10000".to_owned()),
        ("SHOAL_REDIS_TIMEOUT_MS", "2000".to_owned()),
        ("SHOAL_REQUEST_TIMEOUT_MS", "20000".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

impl Fleet {
    /// Empties this fleet's own Redis.
    pub async fn flush_redis(&self) {
        self.redis_command("FLUSHALL").await;
    }

    /// Runs a command whose arguments have no blanks in them.
    pub async fn redis_command(&self, command: &str) {
        let redis = self.redis.as_ref().expect("built with own_redis()");
        ask_redis::<Value>(redis, command).await;
    }

    /// A new administrator, logged in.
    pub async fn admin(&self) -> Client {
        use shoal::domain::users::{Email, Name, create_admin};
        let app = self.app();
        let email = format!("{}@shoal.test", unique("admin"));
        let (parsed, name) = (Email::try_from(email.clone()), Name::try_from("Admin".to_owned()));
        let hash = app.passwords.hash(super::PASSWORD.to_owned().into()).await.unwrap();
        create_admin(&app.db, &parsed.unwrap(), &name.unwrap(), &hash).await.unwrap();
        let reply = self.client.login(&email, super::client::PASSWORD).await.expect(200);
        self.client.with_token(reply["access_token"].as_str().unwrap())
    }
}
