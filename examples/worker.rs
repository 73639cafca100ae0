//! The smallest worker: one kind of job on the platform alone, without the shop.
//!
//! Reads the same environment as `shoal worker`. With `--enqueue N` it writes N jobs instead.

use std::time::Duration;

use clap::Parser;
use mimalloc::MiMalloc;
use serde::{Deserialize, Serialize};
use shoal::{
    config::{self, process_environment},
    platform::{
        breaker::Breakers,
        db::Db,
        jobs::{self, Failure, Job, Lease, NewJob, Queue, Registry, Worker},
        metrics::Metrics,
        redis::Redis,
        shutdown::{self, Tasks},
    },
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

static QUEUE: Queue = Queue { name: "example", concurrency: 200 };

/// Says hello, at the level of debugging.
#[derive(Serialize, Deserialize)]
struct Greet {
    number: u32,
}

impl Job for Greet {
    type State = ();
    const KIND: &'static str = "example.greet";
    const QUEUE: &'static Queue = &QUEUE;

    async fn run(self, (): &(), _: &Lease) -> Result<(), Failure> {
        tracing::debug!(number = self.number, "hello");
        Ok(())
    }
}

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    enqueue: Option<u32>,
}

/// Jobs that one transaction writes.
const BATCH: u32 = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (database, redis, _) = config::read_stores(&process_environment)?;
    let (metrics, tasks) = (Metrics::new()?, Tasks::default());
    let breakers = Breakers::new(&metrics)?;
    let db = Db::new(&database, &metrics, &breakers, &tasks)?;
    if let Some(count) = Arguments::parse().enqueue {
        enqueue(&db, count).await?;
    } else {
        let redis = Redis::new(&redis, &metrics, breakers.named("redis"), &tasks)?;
        let config = config::read_jobs(&process_environment)?;
        let registry = Registry::new().job::<Greet>();
        let worker = Worker::new((), (db, redis), registry, config, &metrics)?;
        worker.run(&tasks, shutdown::signal(&tasks)?, Duration::from_secs(25)).await;
    }
    tasks.stop().await;
    Ok(())
}

async fn enqueue(db: &Db, count: u32) -> anyhow::Result<()> {
    for first in (0..count).step_by(BATCH as usize) {
        let numbers = first..count.min(first + BATCH);
        let jobs: Vec<_> =
            numbers.map(|number| NewJob::new(&Greet { number })).collect::<Result<_, _>>()?;
        let mut tx = db.begin().await?;
        jobs::enqueue_all(&mut tx, &jobs).await?;
        tx.commit().await?;
    }
    Ok(())
}
