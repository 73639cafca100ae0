//! Postgres: one primary and any number of streaming replicas, each behind PgBouncer.
//!
//! A caller names its source: [`Db::read`] (a replica that is far enough, else the primary),
//! [`Db::primary`] and [`Db::begin`]. A decision that leads to a write is never taken from a
//! replica read.
//!
//! Reading order: this file, `routes.rs` (where a read goes), `replica.rs`, `primary.rs`,
//! `conn.rs`, `transaction.rs`, `pool.rs`; then how the replicas are watched: `watch.rs`,
//! `sampler.rs`, `cluster.rs`, `position.rs`.

mod answers;
mod bytea;
mod cluster;
mod conn;
mod error;
mod lsn;
mod pool;
mod position;
mod primary;
mod queries;
mod replica;
mod routes;
mod sampler;
pub mod schema;
mod target;
mod transaction;
mod watch;

use std::{str::FromStr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

pub use self::{
    bytea::Bytea,
    conn::Conn,
    error::{Error, OnConstraint},
    lsn::Lsn,
    transaction::Tx,
};
use self::{
    pool::{Pool, PoolSizes},
    primary::Primary,
    replica::{Gauges, Replica},
    routes::{Reads, Routes},
    sampler::Sampler,
    target::Target,
};
use super::{
    bell::Bell, breaker::Breakers, events::feed::Local, metrics::Metrics, shutdown::Tasks,
};

/// Where the databases are, and how many connections each replica of this process may hold.
#[derive(Clone)]
pub struct Config {
    /// The primary, through PgBouncer.
    pub primary_url: SecretString,
    /// The replicas, each through its PgBouncer.
    pub replica_urls: Vec<SecretString>,
    /// Per pool. `replicas of the API × pool_size` must fit into PgBouncer's `max_client_conn`.
    pub pool_size: usize,
    pub acquire_timeout: Duration,
    /// A replica further behind than this is not read from.
    pub max_replica_lag: Duration,
    /// A server that does not say where it is in this time counts as away.
    pub look_timeout: Duration,
}

/// What a read must be able to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Anything that was true a moment ago: public data.
    Any,
    /// Everything that was committed up to this position, above all one's own writes.
    AtLeast(Lsn),
    /// Everything that was acknowledged before the read began.
    Latest,
    /// The same; but while the primary is away, this position and the last one that it was seen
    /// at will do.
    LatestElse(Lsn),
    /// The same, and no cache may answer: one holds what the reader has replaced.
    Uncached,
}

impl Consistency {
    /// The same, and nothing older than `position`: for reads that belong together.
    pub fn from(self, position: Lsn) -> Self {
        match self {
            Self::Any => Self::AtLeast(position),
            Self::AtLeast(lsn) => Self::AtLeast(lsn.max(position)),
            Self::LatestElse(lsn) => Self::LatestElse(lsn.max(position)),
            Self::Latest | Self::Uncached => self,
        }
    }
}

/// The pools of this process. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    routes: Arc<Routes>,
    shared: transaction::Shared,
    /// How long a server that works may be silent.
    longest_silence: Duration,
    /// The same, if that is an end of the statement.
    silence: Option<Duration>,
}

/// What the samplers last saw of one database.
pub struct State {
    pub name: &'static str,
    /// For the primary: it answers. For a replica: it is read from.
    pub up: bool,
    /// For a replica: how far it was behind the primary when it was last seen.
    pub lag_seconds: Option<f64>,
}

impl Db {
    /// Sets up the pools and starts to watch the servers; the pools connect when first needed.
    ///
    /// # Errors
    /// A URL that cannot be parsed, or a metric that is registered twice.
    pub fn new(
        config: &Config,
        metrics: &Metrics,
        breakers: &Breakers,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let acquire = metrics.seconds_vec(
            "db_pool_acquire_seconds",
            "Time until a connection was there.",
            &["pool"],
        )?;
        let queries = metrics.seconds_vec(
            "db_query_duration_seconds",
            "Statements by their first word, until the last row.",
            &["pool", "query"],
        )?;
        let pool = |name, options: &PgConnectOptions| {
            let target = Target::new(name, breakers.named(name), &queries);
            let seconds = acquire.with_label_values(&[name]);
            let (size, limit) = (config.pool_size, config.acquire_timeout);
            Pool::new(target, options.clone(), size, limit, seconds)
        };
        let reads = metrics.counter_vec(
            "db_reads_total",
            "Reads by where they went and why.",
            &["target", "reason"],
        )?;
        let options = connect_options(&config.primary_url)?;
        let primary = Arc::new(Primary::new(
            pool("primary", &options)?,
            config.pool_size,
            config.acquire_timeout,
            config.replica_urls.len(),
            reads.with_label_values(&["primary", "moved"]),
        ));
        let sampler = Sampler::new(options, config.look_timeout);
        let mut samplers = Vec::with_capacity(config.replica_urls.len());
        let gauges = Gauges::families(metrics)?;
        let mut replicas = Vec::with_capacity(config.replica_urls.len());
        for (index, url) in config.replica_urls.iter().enumerate() {
            let name = REPLICA_NAMES
                .get(index)
                .ok_or_else(|| anyhow::anyhow!("more than {} replicas", REPLICA_NAMES.len()))?;
            let options = connect_options(url)?;
            replicas.push(Arc::new(Replica::new(pool(name, &options)?, gauges(name))));
            samplers.push(Sampler::new(options, config.look_timeout));
        }
        let pools = replicas.iter().map(|replica| &replica.pool);
        PoolSizes::register(metrics, std::iter::once(&primary.pool).chain(pools))?;
        let routes = Routes::new(primary, replicas, config.max_replica_lag, Reads::new(&reads));
        let routes = Arc::new(routes);
        let run = |watch: BoxFuture<'static, ()>| {
            let stopping = tasks.stopping();
            tasks.spawn(async move {
                tokio::select! { () = watch => {}, () = stopping => {} }
            });
        };
        run(watch::primary(routes.clone(), sampler).boxed());
        for (index, sampler) in samplers.into_iter().enumerate() {
            run(watch::replica(routes.clone(), index, sampler).boxed());
        }
        let (bell, local) = (Bell::default(), Local::default());
        let shared = transaction::Shared { tasks: tasks.clone(), bell, local };
        // What the server gives a statement, and twice what it has to show that it is there: a
        // statement that is merely slow is ended by the server, which then says so.
        let longest_silence = transaction::ROLE_STATEMENT_TIMEOUT + config.look_timeout * 2;
        Ok(Self { routes, shared, longest_silence, silence: None })
    }

    /// The same, for loops, which have no deadline: their statements on the primary fail once it
    /// has been silent for too long, and the connection is closed. Else a primary that vanished
    /// without a word would hold them until TCP gives up, a quarter of an hour later.
    pub(in crate::platform) fn for_loops(&self) -> Self {
        Self { silence: Some(self.longest_silence), ..self.clone() }
    }

    /// A connection to read with: one to the least busy replica that has what `consistency` asks
    /// for, or will have it in a few milliseconds; else one to the primary.
    ///
    /// # Errors
    /// 503 when no connection can be had in time, or the primary is needed and away.
    pub async fn read(&self, consistency: &Consistency) -> Result<Conn, Error> {
        self.routes.read(consistency).await
    }

    /// A connection to the primary, for statements that need no transaction.
    ///
    /// # Errors
    /// 503 when no connection can be had in time.
    pub async fn primary(&self) -> Result<Conn, Error> {
        self.routes.touch();
        Ok(self.routes.primary.pool.get().await?.within(self.silence))
    }

    /// How far the log of the primary was when it was last looked at: it is not less now.
    pub fn position(&self) -> Lsn {
        self.routes.cluster.newest()
    }

    /// How far the log of the primary is: whatever was acknowledged before now lies before that.
    ///
    /// # Errors
    /// The primary cannot be reached.
    pub async fn sample_position(&self) -> Result<Lsn, Error> {
        Ok(queries::flushed(&mut self.primary().await?).await?)
    }

    /// A transaction on the primary.
    ///
    /// # Errors
    /// 503 when no connection can be had in time.
    pub async fn begin(&self) -> Result<Tx, Error> {
        let (tx, _) = self.begin_with("").await?;
        Ok(tx)
    }

    /// Rung when a transaction of this process has left events or jobs.
    pub fn bell(&self) -> &Bell {
        &self.shared.bell
    }

    /// Told of the events that transactions of this process have committed.
    pub fn local_events(&self) -> &Local {
        &self.shared.local
    }

    /// What is known of each database; nothing is asked for it.
    pub fn states(&self) -> Vec<State> {
        let routes = &self.routes;
        let replica = |replica: &Arc<Replica>| State {
            name: replica.name(),
            up: replica.is_in_rotation(),
            lag_seconds: Some(replica.lag_seconds()),
        };
        let up = routes.cluster.is_primary_up();
        let primary = State { name: routes.primary.pool.name(), up, lag_seconds: None };
        std::iter::once(primary).chain(routes.replicas.iter().map(replica)).collect()
    }

    /// Closes the pools: whoever waits gets an error, idle connections are closed.
    pub fn close(&self) {
        self.routes.primary.pool.close();
        for replica in &self.routes.replicas {
            replica.pool.close();
        }
    }
}

/// Label values must be bounded and `'static`; more replicas than this want a balancer.
const REPLICA_NAMES: [&str; 8] = [
    "replica-1",
    "replica-2",
    "replica-3",
    "replica-4",
    "replica-5",
    "replica-6",
    "replica-7",
    "replica-8",
];

/// Options as this project uses them: quiet, since every request would log its statements.
pub fn connect_options(url: &SecretString) -> anyhow::Result<PgConnectOptions> {
    // The error text of the parser does not quote the URL, which holds a password.
    let options = PgConnectOptions::from_str(url.expose_secret())?;
    Ok(options.application_name("shoal").disable_statement_logging())
}
