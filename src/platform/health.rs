//! Whether this process is alive, and whether it should get requests.
//!
//! Readiness depends on this process alone, never on a dependency: an outage that all replicas
//! share must not take all of them out of the balancer, where some could still answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    db::{Db, schema},
    redis::Redis,
    shutdown::Tasks,
    storage::Storage,
};

/// How long one dependency may take to answer before it counts as down.
const PING_LIMIT: Duration = Duration::from_millis(500);

/// How long their answers are good for.
const ANSWERS_TTL: Duration = Duration::from_secs(1);

/// How often an unfit or unreachable schema is looked at again.
const SCHEMA_RETRY: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Health {
    db: Db,
    redis: Redis,
    storage: Storage,
    tasks: Tasks,
    started: Arc<AtomicBool>,
    /// What the others than the database said, so that asking often does not take their connections.
    answers: Cache<(), Vec<Dependency>>,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Until the schema is new enough.
    Starting,
    Ready,
    /// Told to end; what has begun is finished.
    Draining,
}

/// What `/health/ready` says.
#[derive(Debug, Serialize, ToSchema)]
pub struct Report {
    pub status: Status,
    /// Some dependency is down; requests are served all the same, as far as they can be.
    pub degraded: bool,
    pub dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Dependency {
    pub name: &'static str,
    pub up: bool,
    /// Of replicas of the database: how far they are behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
}

impl Health {
    pub fn new(db: Db, redis: Redis, storage: Storage, tasks: Tasks) -> Self {
        Self {
            db,
            redis,
            storage,
            tasks,
            started: Arc::default(),
            answers: Cache::builder().time_to_live(ANSWERS_TTL).build(),
        }
    }

    /// Becomes ready once the schema is at least the one this build was made for.
    pub async fn start(self) {
        let stopping = self.tasks.stopping();
        let wait = async {
            while let Err(reason) = self.check_schema().await {
                tracing::warn!(reason, "not ready yet");
                tokio::time::sleep(SCHEMA_RETRY).await;
            }
            self.started.store(true, Ordering::Release);
            tracing::info!("ready");
        };
        tokio::select! { () = wait => {}, () = stopping => {} }
    }

    async fn check_schema(&self) -> Result<(), String> {
        let version = async { schema::version(&mut self.db.primary().await?).await };
        let (required, version) = (schema::required_version(), version.await);
        match version {
            Ok(version) if version >= required => Ok(()),
            Ok(version) => Err(format!(
                "the database is at schema {version}, this build needs {required}: run \
                 `shoal migrate`"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether a balancer should send requests here.
    pub fn is_ready(&self) -> bool {
        self.status() == Status::Ready
    }

    pub fn status(&self) -> Status {
        if self.tasks.is_draining() {
            Status::Draining
        } else if self.is_started() {
            Status::Ready
        } else {
            Status::Starting
        }
    }

    /// The databases that did not answer when they were last looked at, or are not read from.
    pub fn databases_away(&self) -> impl Iterator<Item = &'static str> {
        self.db.states().into_iter().filter(|state| !state.up).map(|state| state.name)
    }

    pub async fn report(&self) -> Report {
        let others = self.answers.get_with((), self.ask_others()).await;
        // Of the databases the samplers know, always the newest.
        let databases = self.db.states().into_iter().map(|state| Dependency {
            name: state.name,
            up: state.up,
            lag_seconds: state.lag_seconds,
        });
        let dependencies: Vec<_> = databases.chain(others).collect();
        Report {
            status: self.status(),
            degraded: dependencies.iter().any(|dependency| !dependency.up),
            dependencies,
        }
    }

    async fn ask_others(&self) -> Vec<Dependency> {
        let (redis, s3) = tokio::join!(self.redis.ping(PING_LIMIT), self.storage.ping(PING_LIMIT));
        let answers = [("redis", redis), ("s3", s3)];
        answers.map(|(name, up)| Dependency { name, up, lag_seconds: None }).to_vec()
    }
}
