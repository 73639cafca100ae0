//! A pool of sqlx connections without sqlx's own pool.
//!
//! sqlx's pool sends a `Sync` and waits for the answer each time a connection comes back. At
//! one query per request that is a second round trip: 53 instead of 33 µs of CPU per request in
//! this process, and as much again in PgBouncer and Postgres. Here a connection is judged by
//! its age and by the errors that [`Conn`] saw, and asked nothing while it is in steady use.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool::{
    Runtime,
    managed::{self, Metrics as Usage, PoolError, RecycleError, RecycleResult},
};
use prometheus::{
    Histogram, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{conn::Conn, error::Error, target::Target};
use crate::platform::{context, metrics::Metrics};

/// A connection older than this is replaced, so that a changed address or a rebalanced
/// PgBouncer is found without a restart.
pub(super) const MAX_AGE: Duration = Duration::from_secs(15 * 60);

/// A connection unused for this long is asked before it is trusted: its PgBouncer may have been
/// restarted meanwhile. In steady use it is never asked.
const IDLE_BEFORE_PING: Duration = Duration::from_secs(1);

/// How long the next borrower waits for the rest of an answer that a cancelled request left
/// unread. Longer, and a new connection is cheaper.
const LEFTOVER_WAIT: Duration = Duration::from_millis(20);

/// Opens and checks connections for the pool.
pub(super) struct Connector {
    options: PgConnectOptions,
    target: Arc<Target>,
}

impl managed::Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        // Again, for whoever has waited for a turn while the others found out.
        if self.target.breaker.is_open() {
            return Err(sqlx::Error::Io(std::io::ErrorKind::NotConnected.into()));
        }
        // Boxed: a future of 20 kB would otherwise be part of every request's own.
        Box::pin(PgConnection::connect_with(&self.options)).await
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        usage: &Usage,
    ) -> RecycleResult<sqlx::Error> {
        if usage.age() > MAX_AGE {
            return Err(RecycleError::message("old enough to be replaced"));
        }
        let check = async {
            if usage.last_used() > IDLE_BEFORE_PING {
                connection.ping().await
            } else {
                // Reads what is left of the last answer; no round trip when nothing is.
                connection.flush().await
            }
        };
        match timeout(LEFTOVER_WAIT, check).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(RecycleError::message("still busy with a cancelled query")),
        }
    }
}

/// Connections to one PgBouncer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    target: Arc<Target>,
    connections: managed::Pool<Connector>,
    acquire_timeout: Duration,
    acquire_seconds: Histogram,
}

impl Pool {
    /// Connects lazily: nothing is sent before the first `get`.
    pub(super) fn new(
        target: Target,
        options: PgConnectOptions,
        size: usize,
        acquire_timeout: Duration,
        acquire_seconds: Histogram,
    ) -> anyhow::Result<Self> {
        let target = Arc::new(target);
        let connections = managed::Pool::builder(Connector { options, target: target.clone() })
            .runtime(Runtime::Tokio1)
            .max_size(size)
            // Together with the wait for a turn, at most one and a half of it.
            .create_timeout(Some(acquire_timeout / 2))
            .build()?;
        Ok(Self { target, connections, acquire_timeout, acquire_seconds })
    }

    /// A connection, within the acquire time-out or what is left of the request's deadline.
    ///
    /// # Errors
    /// `Busy` when every connection stayed in use, `Unreachable` when none could be opened, and
    /// at once while the server is known to be away.
    pub(super) async fn get(&self) -> Result<Conn, Error> {
        self.get_within(self.acquire_timeout).await
    }

    /// As [`Pool::get`], for who has waited before.
    pub(super) async fn get_within(&self, limit: Duration) -> Result<Conn, Error> {
        self.check()?;
        let start = Instant::now();
        let limits = managed::Timeouts {
            wait: Some(context::remaining(limit)),
            ..self.connections.timeouts()
        };
        let result = self.connections.timeout_get(&limits).await;
        self.acquire_seconds.observe(start.elapsed().as_secs_f64());
        let error = match result {
            Ok(object) => return Ok(Conn::new(object, self.target.clone())),
            Err(PoolError::Timeout(managed::TimeoutType::Wait)) => {
                return Err(Error::Busy(self.name()));
            }
            Err(PoolError::Backend(error)) => Error::from_connect(self.name(), error),
            Err(error) => Error::Unreachable(self.name(), error.to_string()),
        };
        self.target.breaker.record_failure();
        Err(error)
    }

    /// # Errors
    /// `Unreachable` while the server is known to be away.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.target.check()
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn name(&self) -> &'static str {
        self.target.name
    }

    /// Closes the idle connections: after one broke, its siblings most likely did as well.
    pub(super) fn forget_idle(&self) {
        self.connections.retain(|_, _| false);
    }

    pub(super) fn close(&self) {
        self.connections.close();
    }
}

/// `db_pool_connections{pool,state}`, read from the pools when scraped.
pub(super) struct PoolSizes {
    family: prometheus::IntGaugeVec,
    pools: Vec<(managed::Pool<Connector>, IntGauge, IntGauge, IntGauge)>,
}

impl PoolSizes {
    pub(super) fn register<'a>(
        metrics: &Metrics,
        pools: impl Iterator<Item = &'a Pool>,
    ) -> prometheus::Result<()> {
        let options = prometheus::Opts::new(
            "db_pool_connections",
            "Connections to PgBouncer by state: idle, used, or requests that wait for one.",
        );
        let family = prometheus::IntGaugeVec::new(options, &["pool", "state"])?;
        let pools = pools
            .map(|pool| {
                let gauge = |state| family.with_label_values(&[pool.name(), state]);
                let pool = pool.connections.clone();
                (pool, gauge("idle"), gauge("used"), gauge("waiting"))
            })
            .collect();
        metrics.register(Self { family, pools })
    }
}

impl Collector for PoolSizes {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (pool, idle, used, waiting) in &self.pools {
            let status = pool.status();
            let free = status.available.min(status.size);
            idle.set(free as i64);
            used.set((status.size - free) as i64);
            waiting.set(status.waiting as i64);
        }
        self.family.collect()
    }
}
