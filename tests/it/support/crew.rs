//! Workers that run the errands of a test, in its own process or as processes of their own.

use std::{collections::HashMap, env, sync::Arc, time::Duration};

use lab::{
    process::{Launch, Process},
    site::Site,
};
use shoal::{
    config::{self, process_environment},
    platform::{
        breaker::Breakers,
        db::Db,
        jobs::{self, Job, NewJob, Registry, Worker},
        metrics::Metrics,
        redis::Redis,
        shutdown::{self, Tasks},
    },
};
use sqlx::{AssertSqlSafe, Executor};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Database, environment,
    errands::{self, Stage},
    topology, until,
};

/// A database for errands, and what it takes to work on them.
pub struct Crew {
    pub database: Database,
    pub db: Db,
    settings: HashMap<String, String>,
    _tasks: Tasks,
}

/// Connections of one process.
struct Stores {
    db: Db,
    redis: Redis,
    config: jobs::Config,
    metrics: Metrics,
    tasks: Tasks,
}

impl Stores {
    fn connect(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let (database, redis, _) = config::read_stores(lookup).unwrap();
        let config = config::read_jobs(lookup).unwrap();
        let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::default());
        let breakers = Breakers::new(&metrics).unwrap();
        let db = Db::new(&database, &metrics, &breakers, &tasks).unwrap();
        let redis = Redis::new(&redis, &metrics, breakers.named("redis"), &tasks).unwrap();
        jobs::wake::tell(db.bell(), &redis, &tasks);
        Self { db, redis, config, metrics, tasks }
    }
}

impl Crew {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With settings of its own.
    pub async fn with(own: &[(&str, &str)]) -> Self {
        Self::of(Database::create().await, own).await
    }

    /// On a database that is there already.
    pub async fn of(database: Database, own: &[(&str, &str)]) -> Self {
        database.connect().await.execute(errands::TABLES).await.unwrap();
        let mut settings = environment(&database.name);
        settings.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let Stores { db, tasks, .. } = Stores::connect(&|name| settings.get(name).cloned());
        Self { database, db, settings, _tasks: tasks }
    }

    pub async fn enqueue<J: Job>(&self, job: &J) {
        self.enqueue_all(vec![NewJob::new(job).unwrap()]).await;
    }

    pub async fn enqueue_all(&self, jobs: Vec<NewJob>) {
        let mut tx = self.db.begin().await.unwrap();
        jobs::enqueue_all(&mut tx, &jobs).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A worker in this process.
    pub fn worker(&self) -> Hand {
        self.worker_with(errands::registry())
    }

    pub fn worker_with(&self, registry: Registry<Stage>) -> Hand {
        let stores = Stores::connect(&|name| self.settings.get(name).cloned());
        let Stores { db, redis, config, metrics, tasks } = stores;
        let stage = Stage { db: db.clone(), crowd: Arc::default(), most: Arc::default() };
        let worker = Worker::new(stage.clone(), (db, redis), registry, config, &metrics).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ended = tokio::spawn(async move {
            worker.run(&tasks, stopped.cancelled(), Duration::from_secs(20)).await;
            tasks.stop().await;
        });
        Hand { stage, metrics, stop, ended }
    }

    /// A worker as a process of its own. It may not be ready yet.
    pub fn process(&self, name: &str) -> Process {
        let site = Site::beside(topology(), &self.database.name).unwrap();
        let own = env::current_exe().unwrap();
        let launch = Launch::new(name, &own, site.log(name))
            .record_in(&site.run_dir())
            .args(["--exact", "support::crew::works_as_a_process", "--ignored", "--nocapture"])
            .env(self.settings.clone())
            .env([(MARK.to_owned(), "true".to_owned())]);
        Process::start(launch).unwrap()
    }

    /// Lets the [`errands::Gated`] of this name go on.
    pub async fn open(&self, gate: &str) {
        let open = format!("insert into open_gates (name) values ('{gate}')");
        self.execute(&open).await;
    }

    pub async fn execute(&self, sql: &str) {
        self.database.connect().await.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    /// Waits until a count is this.
    pub async fn until(&self, sql: &'static str, expected: i64) {
        until(async || self.database.number(sql).await == expected).await;
    }
}

/// A worker in the process of the test.
pub struct Hand {
    pub stage: Stage,
    pub metrics: Metrics,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

impl Hand {
    /// Ends it as SIGTERM does.
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }

    /// The value of one series of its metrics, 0 where it is missing.
    pub fn metric(&self, series: &str) -> f64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

/// Tells this binary that it was started as a worker.
const MARK: &str = "ERRANDS";

#[test]
#[ignore = "no test: what the tests above start as processes of their own"]
fn works_as_a_process() {
    if env::var(MARK).is_err() {
        return;
    }
    tracing_to_the_log();
    let cap = env::var("SHOAL_DRAIN_CAP_MS").map_or(20_000, |cap| cap.parse().unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let Stores { db, redis, config, metrics, tasks } = Stores::connect(&process_environment);
        let stage = Stage { db: db.clone(), crowd: Arc::default(), most: Arc::default() };
        let registry = errands::registry_with_schedule();
        let worker = Worker::new(stage, (db, redis), registry, config, &metrics).unwrap();
        let shutdown = shutdown::signal(&tasks).unwrap();
        worker.run(&tasks, shutdown, Duration::from_millis(cap)).await;
        tasks.stop().await;
    });
}

fn tracing_to_the_log() {
    tracing_subscriber::fmt().with_ansi(false).init();
}
