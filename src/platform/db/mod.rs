//! Postgres: one primary and any number of streaming replicas, each behind PgBouncer.
//!
//! A caller names its source: [`Db::read`] (a replica if it may be one), [`Db::primary`] and
//! [`Db::begin`]. A decision that leads to a write is never taken from a replica read.
//!
//! Reading order: this file, `transaction.rs`, `pool.rs`, `conn.rs`, `error.rs`, `schema.rs`.

mod conn;
mod error;
mod lsn;
mod pool;
pub mod schema;
mod transaction;

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::{IntCounter, IntGauge};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::pool::{Pool, PoolSizes};
pub use self::{
    conn::Conn,
    error::{Error, OnConstraint},
    lsn::Lsn,
    transaction::Tx,
};
use super::{metrics::Metrics, shutdown::Tasks};

/// How often a replica is asked whether it is there and still a replica.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

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
    /// The same, and no cache may answer: one holds what the reader has replaced.
    Uncached,
}

/// The pools of this process. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    primary: Pool,
    replicas: Vec<Replica>,
    /// Where the next read starts its turn around the replicas.
    turn: AtomicUsize,
    reads: Reads,
    tasks: Tasks,
}

struct Replica {
    pool: Pool,
    /// Answers, and is in recovery. Only such a replica is read from.
    in_rotation: AtomicBool,
    up: IntGauge,
}

/// `db_reads_total{target,reason}`
struct Reads {
    replica: IntCounter,
    primary_own_writes: IntCounter,
    primary_no_replica: IntCounter,
}

impl Db {
    /// Sets up the pools; connections are opened when first needed.
    ///
    /// # Errors
    /// A URL that cannot be parsed, or a metric that is registered twice.
    pub fn new(config: &Config, metrics: &Metrics, tasks: &Tasks) -> anyhow::Result<Self> {
        let acquire = metrics.seconds_vec(
            "db_pool_acquire_seconds",
            "Time until a connection was there.",
            &["pool"],
        )?;
        let pool = |name, url: &SecretString| {
            let seconds = acquire.with_label_values(&[name]);
            let options = connect_options(url)?;
            Pool::new(name, options, config.pool_size, config.acquire_timeout, seconds)
        };
        let up = metrics.int_gauge_vec(
            "db_replica_up",
            "1 while the replica is read from.",
            &["replica"],
        )?;
        let primary = pool("primary", &config.primary_url)?;
        let mut replicas = Vec::with_capacity(config.replica_urls.len());
        for (index, url) in config.replica_urls.iter().enumerate() {
            let name = REPLICA_NAMES
                .get(index)
                .ok_or_else(|| anyhow::anyhow!("more than {} replicas", REPLICA_NAMES.len()))?;
            replicas.push(Replica {
                pool: pool(name, url)?,
                in_rotation: AtomicBool::new(false),
                up: up.with_label_values(&[name]),
            });
        }
        let pools = std::iter::once(&primary).chain(replicas.iter().map(|replica| &replica.pool));
        PoolSizes::register(metrics, pools)?;
        let reads = metrics.counter_vec(
            "db_reads_total",
            "Reads by where they went and why.",
            &["target", "reason"],
        )?;
        let db = Self {
            inner: Arc::new(Inner {
                primary,
                replicas,
                turn: AtomicUsize::new(0),
                reads: Reads {
                    replica: reads.with_label_values(&["replica", "fresh_enough"]),
                    primary_own_writes: reads.with_label_values(&["primary", "own_writes"]),
                    primary_no_replica: reads.with_label_values(&["primary", "no_replica"]),
                },
                tasks: tasks.clone(),
            }),
        };
        for index in 0..db.inner.replicas.len() {
            tasks.spawn(db.clone().watch(index));
        }
        Ok(db)
    }

    /// A connection to read with: a replica where `consistency` allows it and one is there,
    /// else the primary.
    ///
    /// # Errors
    /// 503 when no connection can be had in time.
    pub async fn read(&self, consistency: &Consistency) -> Result<Conn, Error> {
        let inner = &*self.inner;
        if *consistency != Consistency::Any {
            inner.reads.primary_own_writes.inc();
            return inner.primary.get().await;
        }
        let turn = inner.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..inner.replicas.len() {
            let replica = &inner.replicas[turn.wrapping_add(offset) % inner.replicas.len()];
            if !replica.in_rotation.load(Ordering::Relaxed) {
                continue;
            }
            match replica.pool.get().await {
                Ok(conn) => {
                    inner.reads.replica.inc();
                    return Ok(conn);
                }
                // Alive, and as busy as it may be: the primary's connections are for writers.
                Err(error @ Error::Busy(_)) => return Err(error),
                Err(error) => replica.leave_rotation(&error),
            }
        }
        inner.reads.primary_no_replica.inc();
        inner.primary.get().await
    }

    /// A connection to the primary, for statements that need no transaction.
    ///
    /// # Errors
    /// 503 when no connection can be had in time.
    pub async fn primary(&self) -> Result<Conn, Error> {
        self.inner.primary.get().await
    }

    /// How far the log of the primary was when it was last looked at: it is not less now.
    pub fn position(&self) -> Lsn {
        Lsn::default()
    }

    /// How far the log of the primary is: whatever was acknowledged before now lies before that.
    ///
    /// # Errors
    /// The primary cannot be reached.
    pub async fn sample_position(&self) -> Result<Lsn, Error> {
        Ok(schema::position(&mut self.primary().await?).await?)
    }

    /// A transaction on the primary.
    ///
    /// # Errors
    /// 503 when no connection can be had in time.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Tx::begin(&self.inner.primary, self.inner.tasks.clone()).await
    }

    /// Whether each database answers, by name, within `limit`.
    pub async fn ping(&self, limit: Duration) -> Vec<(&'static str, bool)> {
        let replicas = self.inner.replicas.iter().map(|replica| &replica.pool);
        let pings = std::iter::once(&self.inner.primary).chain(replicas).map(async |pool| {
            let answer = timeout(limit, async {
                let mut conn = pool.get().await?;
                schema::is_replica(&mut conn).await.map_err(Error::from)
            });
            (pool.name(), matches!(answer.await, Ok(Ok(_))))
        });
        futures::future::join_all(pings).await
    }

    /// Closes the pools: whoever waits gets an error, idle connections are closed.
    pub fn close(&self) {
        self.inner.primary.close();
        for replica in &self.inner.replicas {
            replica.pool.close();
        }
    }

    /// Keeps one replica's place in the rotation up to date until the process stops.
    async fn watch(self, index: usize) {
        let replica = &self.inner.replicas[index];
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopping = self.inner.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            tokio::select! { _ = ticks.tick() => {}, () = &mut stopping => return }
            let probe = timeout(PROBE_INTERVAL, async {
                let mut conn = replica.pool.get().await?;
                schema::is_replica(&mut conn).await.map_err(Error::from)
            });
            match probe.await {
                Ok(Ok(true)) => replica.join_rotation(),
                // Promoted: it may have forked off the timeline that the others follow.
                Ok(Ok(false)) => replica.leave_rotation(&"it is not in recovery"),
                Ok(Err(Error::Busy(_))) => {}
                Ok(Err(error)) => replica.leave_rotation(&error),
                Err(_) => replica.leave_rotation(&"no answer in time"),
            }
        }
    }
}

impl Replica {
    fn join_rotation(&self) {
        if !self.in_rotation.swap(true, Ordering::Relaxed) {
            self.up.set(1);
            tracing::info!(replica = self.pool.name(), "replica joined the rotation");
        }
    }

    fn leave_rotation(&self, why: &dyn std::fmt::Display) {
        self.pool.forget_idle();
        if self.in_rotation.swap(false, Ordering::Relaxed) {
            self.up.set(0);
            tracing::warn!(replica = self.pool.name(), %why, "replica left the rotation");
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
