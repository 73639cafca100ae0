//! Workers as processes of their own: killed, frozen, told to end, and in numbers.

use lab::{
    fault::{Fault, FaultProxy},
    process::{Process, Signal},
};
use shoal::platform::jobs::NewJob;

use crate::support::{
    Crew, Database,
    errands::{Deadly, Gated, Note},
    own_redis, topology, until,
};

const BEGUN: &str = "select count(*) from begun";
const DONE: &str = "select count(*) from done";
const RUNNING: &str = "select count(*) from jobs where state = 'running'";

/// A worker that is away for this long has lost its jobs.
const SHORT_LEASE: (&str, &str) = ("SHOAL_JOB_LEASE_MS", "1000");

fn gated(name: &str) -> Gated {
    Gated { name: name.to_owned(), completes: false }
}

#[expect(clippy::needless_pass_by_value, reason = "names and numbers are passed alike")]
fn note(name: impl ToString) -> Note {
    Note { name: name.to_string(), key: None }
}

/// Asks a worker to end: whether it did so in good order.
async fn terminate(worker: &mut Process) {
    worker.signal(Signal::TERM);
    until_ended(worker).await;
    assert!(worker.exit_status().unwrap().success(), "see {}", worker.log().display());
}

async fn until_ended(worker: &mut Process) {
    until(async || worker.exit_status().is_some()).await;
}

#[tokio::test]
async fn a_killed_workers_job_is_done_by_another_once() {
    let crew = Crew::with(&[SHORT_LEASE]).await;
    let mut victim = crew.process("victim");
    crew.enqueue(&gated("g")).await;
    crew.until(BEGUN, 1).await;
    victim.kill();
    let mut other = crew.process("other");
    crew.until(BEGUN, 2).await;
    crew.open("g").await;
    let completed = "select count(*) from jobs where state = 'completed' and attempt >= 2";
    crew.until(completed, 1).await;
    terminate(&mut other).await;
    assert_eq!(crew.database.number(DONE).await, 1);
}

#[tokio::test]
async fn a_frozen_worker_does_nothing_of_what_it_has_lost() {
    let crew = Crew::with(&[SHORT_LEASE]).await;
    let mut frozen = crew.process("frozen");
    crew.enqueue(&gated("g")).await;
    crew.until(BEGUN, 1).await;
    frozen.pause();
    let mut other = crew.process("other");
    crew.until(BEGUN, 2).await;
    crew.open("g").await;
    crew.until("select count(*) from jobs where kind = 'errands.gated' and state = 'completed'", 1)
        .await;
    // It wakes up in the middle of its job, with its gate open, and ends all that it has.
    frozen.resume();
    terminate(&mut frozen).await;
    terminate(&mut other).await;
    assert_eq!(crew.database.number(DONE).await, 1);
    let row = "select count(*) from jobs where kind = 'errands.gated' and state = 'completed'
        and attempt = 2 and fence = 2";
    assert_eq!(crew.database.number(row).await, 1);
}

#[tokio::test]
async fn a_job_that_ends_its_worker_is_a_dead_letter() {
    let crew = Crew::with(&[SHORT_LEASE]).await;
    crew.enqueue(&Deadly {}).await;
    let mut victim = crew.process("victim");
    for attempt in 1..=3 {
        until_ended(&mut victim).await;
        assert_eq!(crew.database.number(BEGUN).await, attempt);
        victim.restart().unwrap();
    }
    // Its last attempt is over, and the worker lives.
    let dead = "select count(*) from jobs where kind = 'errands.deadly' and state = 'dead'
        and attempt = 3 and error like '%was not heard of any more'";
    crew.until(dead, 1).await;
    crew.enqueue(&note("after")).await;
    crew.until(DONE, 1).await;
    terminate(&mut victim).await;
    assert_eq!(crew.database.number(BEGUN).await, 3);
}

#[tokio::test]
async fn told_to_end_a_worker_finishes_what_runs_and_begins_no_more() {
    let crew = Crew::new().await;
    let mut leaving = crew.process("leaving");
    crew.enqueue(&gated("g")).await;
    crew.until(BEGUN, 1).await;
    leaving.signal(Signal::TERM);
    // Once it has said so, nothing is claimed.
    let log = leaving.log().to_owned();
    until(async || std::fs::read_to_string(&log).unwrap().contains("no longer claiming")).await;
    crew.enqueue(&note("later")).await;
    crew.enqueue(&gated("later")).await;
    crew.open("g").await;
    until_ended(&mut leaving).await;
    assert!(leaving.exit_status().unwrap().success());
    assert_eq!(crew.database.number("select count(*) from done where name = 'g'").await, 1);
    let left = "select count(*) from jobs where state = 'available' and attempt = 0
        and kind in ('errands.note', 'errands.gated')";
    assert_eq!(crew.database.number(left).await, 2);
    assert_eq!(crew.database.number(RUNNING).await, 0);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_given_back() {
    let crew = Crew::with(&[("SHOAL_DRAIN_CAP_MS", "300")]).await;
    let mut leaving = crew.process("leaving");
    crew.enqueue(&gated("g")).await;
    crew.until(BEGUN, 1).await;
    terminate(&mut leaving).await;
    // At once, and as if it had not been begun.
    let back = "select count(*) from jobs where kind = 'errands.gated' and attempt = 0
        and state = 'scheduled' and run_at <= now() and lease_expires_at is null";
    assert_eq!(crew.database.number(back).await, 1);
    let mut other = crew.process("other");
    crew.open("g").await;
    crew.until(DONE, 1).await;
    terminate(&mut other).await;
}

/// The claim was on its way when the word came.
#[tokio::test]
async fn a_claim_that_is_on_its_way_is_seen_through() {
    let crew = Crew::new().await;
    let mut leaving = crew.process("leaving");
    crew.enqueue(&note("first")).await;
    crew.until(DONE, 1).await;
    let mut connection = crew.database.connect().await;
    let lock = "begin; lock table jobs in exclusive mode";
    sqlx::Executor::execute(&mut connection, lock).await.unwrap();
    let claiming = "select count(*) from pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock' and query like '%with due as materialized%'";
    until(async || crew.database.number(claiming).await > 0).await;
    // It cannot see this one yet; whatever it claims, it claims when the lock is gone.
    leaving.signal(Signal::TERM);
    let insert = "insert into jobs (id, queue, kind, args, max_attempts)
        values (gen_random_uuid(), 'notes', 'errands.note', '{\"name\": \"second\"}', 12); commit";
    sqlx::Executor::execute(&mut connection, insert).await.unwrap();
    until_ended(&mut leaving).await;
    assert!(leaving.exit_status().unwrap().success());
    assert_eq!(crew.database.number(RUNNING).await, 0);
}

#[tokio::test]
async fn three_workers_run_each_tick_once() {
    let crew = Crew::new().await;
    let mut workers: Vec<Process> =
        ["one", "two", "three"].iter().map(|name| crew.process(name)).collect();
    until(async || crew.database.number("select count(*) from ticks_run").await >= 6).await;
    for worker in &mut workers {
        terminate(worker).await;
    }
    let ticks = "select count(distinct tick) from schedule_ticks where schedule = 'errands.tick'";
    let jobs = "select count(*) from jobs where kind = 'errands.tick'";
    assert_eq!(crew.database.number(ticks).await, crew.database.number(jobs).await);
    // Every one of the three tried: the ticks that were begun are all that were run.
    let unfinished = "select count(*) from jobs
        where kind = 'errands.tick' and state <> 'completed'";
    let run = crew.database.number("select count(*) from ticks_run").await;
    let left = crew.database.number(unfinished).await;
    assert_eq!(run + left, crew.database.number(jobs).await);
}

#[tokio::test]
async fn killed_at_random_the_workers_do_every_job_once() {
    let crew = Crew::with(&[SHORT_LEASE]).await;
    let mut workers: Vec<Process> =
        ["one", "two", "three"].iter().map(|name| crew.process(name)).collect();
    const ALL: i64 = 600;
    for round in 0..6 {
        let some = (0..100).map(|n| NewJob::new(&note(round * 100 + n)).unwrap()).collect();
        crew.enqueue_all(some).await;
        // In the middle of them.
        let goal = round * 100 + 20;
        until(async || crew.database.number(DONE).await >= goal).await;
        let victim = rand::random_range(0..workers.len());
        workers[victim].kill();
        workers[victim].restart().unwrap();
    }
    let completed = "select count(*) from jobs
        where kind = 'errands.note' and state = 'completed'";
    crew.until(completed, ALL).await;
    for worker in &mut workers {
        terminate(worker).await;
    }
    assert_eq!(crew.database.number(DONE).await, ALL);
    assert_eq!(crew.database.number("select count(distinct name) from done").await, ALL);
}

#[tokio::test]
async fn whatever_becomes_of_redis_no_job_is_lost() {
    let mut redis = own_redis();
    let crew = Crew::with(&[("REDIS_URL", &redis.url())]).await;
    let mut worker = crew.process("worker");
    let enqueue = async |from: i64| {
        for n in from..from + 20 {
            crew.enqueue(&note(n)).await;
        }
    };
    enqueue(0).await;
    redis.process().kill();
    enqueue(20).await;
    crew.until(DONE, 40).await;
    redis.process().restart().unwrap();
    redis.wait_until_ready().unwrap();
    enqueue(40).await;
    crate::support::ask_redis::<String>(&redis, "FLUSHALL").await;
    enqueue(60).await;
    crew.until(DONE, 80).await;
    terminate(&mut worker).await;
    let once = "select count(*) from jobs
        where kind = 'errands.note' and state = 'completed' and attempt = 1";
    assert_eq!(crew.database.number(once).await, 80);
}

/// Nothing is refused and nothing reset: packets are lost, so that only the worker's own patience
/// ends what it waits for.
#[tokio::test]
async fn a_primary_that_falls_silent_holds_no_worker() {
    let proxy = FaultProxy::before(topology().primary.pooler_port).unwrap();
    let database = Database::create().await;
    let app = &topology().app;
    let address = format!("127.0.0.1:{}", proxy.port());
    let url = format!("postgres://{}:{}@{address}/{}", app.user, app.password, database.name);
    let crew = Crew::of(
        database,
        &[
            ("DATABASE_URL", &url),
            ("SHOAL_DB_LOOK_TIMEOUT_MS", "500"),
            ("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "2000"),
            SHORT_LEASE,
        ],
    )
    .await;
    let mut worker = crew.process("worker");
    let notes = |name: &str| {
        format!(
            "insert into jobs (id, queue, kind, args, max_attempts)
             values (gen_random_uuid(), 'notes', 'errands.note', '{{\"name\": \"{name}\"}}', 12)"
        )
    };
    crew.execute(&notes("before")).await;
    crew.until(DONE, 1).await;
    let log = worker.log().to_owned();
    let complaints = || {
        let log = std::fs::read_to_string(&log).unwrap();
        ["cannot ask for jobs", "cannot pass events on", "cannot make scheduled jobs due"]
            .map(|what| log.contains(what))
    };
    proxy.set(Fault::Drop).unwrap();
    // Each of its loops has noticed, and goes on.
    until(async || complaints() == [true; 3]).await;
    crew.execute(&notes("meanwhile")).await;
    proxy.clear().unwrap();
    crew.until(DONE, 2).await;
    // Nor does it stay for what it will never be told.
    proxy.set(Fault::Drop).unwrap();
    worker.signal(Signal::TERM);
    until_ended(&mut worker).await;
    assert!(worker.exit_status().unwrap().success(), "see {}", worker.log().display());
}
