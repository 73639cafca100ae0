//! Jobs that tests give to workers, and the tables in which they leave traces: what was begun,
//! what was done, and what was refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shoal::platform::{
    db::{Db, Tx},
    jobs::{Failure, Job, Lease, Queue, Registry},
};

/// What jobs are given.
#[derive(Clone)]
pub struct Stage {
    pub db: Db,
    /// How many [`Crowd`]s run in this process, and how many there were at most.
    pub crowd: Arc<AtomicUsize>,
    pub most: Arc<AtomicUsize>,
}

pub const TABLES: &str = "
    create table begun (name text not null, attempt smallint not null);
    create table done (name text not null, at timestamptz not null default clock_timestamp());
    create table refused (name text not null, why text not null);
    create table open_gates (name text primary key);
    create table ticks_run (number bigserial primary key);
    grant select, insert on begun, done, refused, open_gates, ticks_run to shoal_app;
    grant usage on sequence ticks_run_number_seq to shoal_app;";

static NOTES: Queue = Queue { name: "notes", concurrency: 20 };
static GATED: Queue = Queue { name: "gated", concurrency: 4 };
static NARROW: Queue = Queue { name: "narrow", concurrency: 1 };
static CROWDED: Queue = Queue { name: "crowded", concurrency: 3 };
static FAILING: Queue = Queue { name: "failing", concurrency: 4 };

pub fn registry() -> Registry<Stage> {
    Registry::new()
        .job::<Note>()
        .job::<Gated>()
        .job::<Plain>()
        .job::<Urgent>()
        .job::<Crowd>()
        .job::<Deadly>()
        .job::<Failing>()
        .job::<Hopeless>()
        .job::<Panicking>()
        .job::<LongQuery>()
}

/// The same with a schedule: not for tests that count jobs.
pub fn registry_with_schedule() -> Registry<Stage> {
    registry().schedule("errands.tick", Duration::from_secs(1), || Tick {})
}

async fn write(tx: &mut Tx, sql: &'static str, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).bind(name).execute(&mut **tx).await?;
    Ok(())
}

async fn write_begun(stage: &Stage, name: &str, lease: &Lease) -> Result<(), Failure> {
    let mut conn = stage.db.primary().await?;
    let insert = sqlx::query("insert into begun (name, attempt) values ($1, $2)");
    insert.bind(name).bind(lease.attempt).execute(&mut conn).await?;
    Ok(())
}

const DONE: &str = "insert into done (name) values ($1)";

/// Completes itself with its effect. Unique by its key, if it has one.
#[derive(Serialize, Deserialize)]
pub struct Note {
    pub name: String,
    pub key: Option<String>,
}

impl Job for Note {
    type State = Stage;
    const KIND: &'static str = "errands.note";
    const QUEUE: &'static Queue = &NOTES;

    fn unique_key(&self) -> Option<String> {
        self.key.clone()
    }

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        let mut tx = stage.db.begin().await?;
        lease.complete(&mut tx).await?;
        write(&mut tx, DONE, &self.name).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Says that it was begun, waits for its gate to be opened, and has its effect while it holds the
/// lease, or says that it was refused.
#[derive(Serialize, Deserialize)]
pub struct Gated {
    pub name: String,
    /// Ends by [`Lease::complete`] rather than after [`Lease::hold`].
    pub completes: bool,
}

impl Job for Gated {
    type State = Stage;
    const KIND: &'static str = "errands.gated";
    const QUEUE: &'static Queue = &GATED;

    fn delay_after(_: i16) -> Duration {
        Duration::from_millis(50)
    }

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        write_begun(stage, &self.name, lease).await?;
        let is_open = "select exists (select from open_gates where name = $1)";
        while !sqlx::query_scalar::<_, bool>(is_open)
            .bind(&self.name)
            .fetch_one(&mut stage.db.primary().await?)
            .await?
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut tx = stage.db.begin().await?;
        let held =
            if self.completes { lease.complete(&mut tx).await } else { lease.hold(&mut tx).await };
        if let Err(failure) = held {
            let refused = sqlx::query("insert into refused (name, why) values ($1, $2)");
            let why = format!("{failure:?}");
            refused.bind(&self.name).bind(why).execute(&mut *tx).await?;
            tx.commit().await?;
            return Err(failure);
        }
        write(&mut tx, DONE, &self.name).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// One at a time.
#[derive(Serialize, Deserialize)]
pub struct Plain {
    pub name: String,
}

impl Job for Plain {
    type State = Stage;
    const KIND: &'static str = "errands.plain";
    const QUEUE: &'static Queue = &NARROW;

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        Note { name: self.name, key: None }.run(stage, lease).await
    }
}

/// The same, before those.
#[derive(Serialize, Deserialize)]
pub struct Urgent {
    pub name: String,
}

impl Job for Urgent {
    type State = Stage;
    const KIND: &'static str = "errands.urgent";
    const QUEUE: &'static Queue = &NARROW;
    const PRIORITY: i16 = 10;

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        Note { name: self.name, key: None }.run(stage, lease).await
    }
}

/// Counts how many of it run at once.
#[derive(Serialize, Deserialize)]
pub struct Crowd {}

impl Job for Crowd {
    type State = Stage;
    const KIND: &'static str = "errands.crowd";
    const QUEUE: &'static Queue = &CROWDED;

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        let now = stage.crowd.fetch_add(1, Ordering::SeqCst) + 1;
        stage.most.fetch_max(now, Ordering::SeqCst);
        let done = Note { name: "crowd".to_owned(), key: None }.run(stage, lease).await;
        stage.crowd.fetch_sub(1, Ordering::SeqCst);
        done
    }
}

/// Ends the process that runs it.
#[derive(Serialize, Deserialize)]
pub struct Deadly {}

impl Job for Deadly {
    type State = Stage;
    const KIND: &'static str = "errands.deadly";
    const QUEUE: &'static Queue = &FAILING;
    const MAX_ATTEMPTS: i16 = 3;

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        write_begun(stage, "deadly", lease).await?;
        std::process::abort();
    }
}

#[derive(Serialize, Deserialize)]
pub struct Failing {
    /// Milliseconds between two attempts; none for the usual wait.
    pub after: Option<u64>,
}

impl Job for Failing {
    type State = Stage;
    const KIND: &'static str = "errands.failing";
    const QUEUE: &'static Queue = &FAILING;
    const MAX_ATTEMPTS: i16 = 3;

    fn delay_after(attempt: i16) -> Duration {
        Duration::from_secs(3_600) * u32::try_from(attempt).unwrap()
    }

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        write_begun(stage, "failing", lease).await?;
        let why = format!("attempt {} of it", lease.attempt);
        Err(Failure::Retry { why, after: self.after.map(Duration::from_millis) })
    }
}

#[derive(Serialize, Deserialize)]
pub struct Hopeless {}

impl Job for Hopeless {
    type State = Stage;
    const KIND: &'static str = "errands.hopeless";
    const QUEUE: &'static Queue = &FAILING;

    async fn run(self, _: &Stage, _: &Lease) -> Result<(), Failure> {
        Err(Failure::hopeless("it can never be done"))
    }
}

#[derive(Serialize, Deserialize)]
pub struct Panicking {}

impl Job for Panicking {
    type State = Stage;
    const KIND: &'static str = "errands.panicking";
    const QUEUE: &'static Queue = &FAILING;
    const MAX_ATTEMPTS: i16 = 1;

    async fn run(self, _: &Stage, _: &Lease) -> Result<(), Failure> {
        panic!("as the test wants it");
    }
}

/// Says how long its statements may take, in milliseconds, and asks Postgres for what takes longer
/// than it has.
#[derive(Serialize, Deserialize)]
pub struct LongQuery {}

impl Job for LongQuery {
    type State = Stage;
    const KIND: &'static str = "errands.long_query";
    const QUEUE: &'static Queue = &FAILING;
    const MAX_ATTEMPTS: i16 = 1;
    /// Less than the role of the application has by itself.
    const TIMEOUT: Duration = Duration::from_secs(2);

    async fn run(self, stage: &Stage, _: &Lease) -> Result<(), Failure> {
        let mut tx = stage.db.begin().await?;
        let limit = "insert into done (name)
            select setting from pg_settings where name = 'statement_timeout'";
        sqlx::query(limit).execute(&mut *tx).await?;
        tx.commit().await?;
        let mut tx = stage.db.begin().await?;
        sqlx::query("select pg_sleep(3600)").execute(&mut *tx).await?;
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
pub struct Tick {}

impl Job for Tick {
    type State = Stage;
    const KIND: &'static str = "errands.tick";
    const QUEUE: &'static Queue = &NOTES;

    async fn run(self, stage: &Stage, lease: &Lease) -> Result<(), Failure> {
        let mut tx = stage.db.begin().await?;
        lease.complete(&mut tx).await?;
        sqlx::query("insert into ticks_run default values").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
