//! Work outside of requests: how many jobs a worker gets done, and how soon it begins.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::http;
use super::stage::Stage;
use super::targets::{Bound, Target};
use crate::api::Worker;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::ports::Port;
use crate::process::Process;
use crate::progress::Progress;
use crate::psql::Psql;
use crate::topology::DATABASE;

/// Jobs of one measurement, each of which does nothing.
const JOBS: u32 = 50_000;
/// Finished jobs that must not be in the way.
const FINISHED: u32 = 1_000_000;
/// Orders whose jobs are waited for, one after the other.
const ORDERS: usize = 300;
/// From one to the next, so that the worker has nothing else to do.
const APART: Duration = Duration::from_millis(30);
/// How soon a worker that is gone for good is noticed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// Each part by an index of its own: to look through what is finished would take the core from the worker.
const UNFINISHED: &str = "select (select count(*) from jobs where state = 'available') \
                          + (select count(*) from jobs where state = 'running')";

/// Starts workers on the measured core, one at a time.
pub(super) fn run(stage: &Stage<'_>, programs: &Path, progress: &Progress) -> Result<Vec<Target>> {
    let psql = Psql::new(stage.site, stage.topology.primary.port, DATABASE);
    let example = programs.join("examples").join("worker");

    let step = progress.step("Jobs that do nothing");
    let alone = throughput(stage, &psql, &example)?;
    step.say("a million finished jobs");
    fill(&psql)?;
    step.say("jobs that do nothing, beside them");
    let beside = throughput(stage, &psql, &example)?;
    step.done();

    let step = progress.step("From an order to its jobs");
    let p99 = start_latency(stage, &psql)?;
    step.done();

    let target = |what, bound, value: f64, unit| Target { what, bound, value: Some(value), unit };
    Ok(vec![
        target("jobs per second of one worker on one core", Bound::AtLeast(5_000.0), alone, "/s"),
        target(
            "the same beside 1,000,000 finished jobs, as a part of that",
            Bound::AtLeast(0.8),
            beside / alone,
            "×",
        ),
        target(
            "p99 from an order to the start of the last of its jobs, idle",
            Bound::AtMost(50.0),
            p99,
            "ms",
        ),
    ])
}

/// Jobs per second, from the first that was begun to the last that was completed.
fn throughput(stage: &Stage<'_>, psql: &Psql<'_>, example: &Path) -> Result<f64> {
    let shoal = stage.shoal.clone().with_binary(example).on_cores(&stage.cores.subject_list());
    shoal.run(&["--enqueue", &JOBS.to_string()], "", "write jobs")?;
    let mut worker = Process::start(shoal.launch(stage.site, "example-worker"))?;
    wait(psql, UNFINISHED)?;
    worker.stop();
    let sql = format!(
        "select {JOBS} / extract(epoch from max(finished_at) - min(started_at)) from jobs \
         where kind = 'example.greet' and worker is not null"
    );
    let rate = number(psql, &sql)?;
    psql.run("delete from jobs where worker is not null; vacuum analyze jobs")?;
    Ok(rate)
}

/// As they are after days of work, all of the queue that is measured.
fn fill(psql: &Psql<'_>) -> Result<()> {
    let sql = format!(
        "insert into jobs (id, queue, kind, args, state, attempt, max_attempts, fence, started_at, finished_at) \
         select gen_random_uuid(), 'example', 'example.greet', '{{}}', 'completed', 1, 12, 1, now(), now() \
         from generate_series(1, {FINISHED}); \
         vacuum analyze jobs; checkpoint"
    );
    psql.run(&sql).map(drop)
}

/// Milliseconds within which the last job of 99 of 100 orders was begun, while the worker has nothing else to do.
/// Counted from the begin of the order's transaction, so a little more than from its commit.
fn start_latency(stage: &Stage<'_>, psql: &Psql<'_>) -> Result<f64> {
    let shoal = stage.shoal.clone().on_cores(&stage.cores.subject_list());
    let worker = Worker::start(stage.site, "worker", Port::free()?, &shoal)?;
    for number in 0..ORDERS {
        let product = stage.data.product(1 + number);
        let body = format!(r#"{{"items":[{{"product_id":"{product}","quantity":1}}]}}"#);
        let token = format!("Bearer {}", stage.data.tokens[number % stage.data.tokens.len()]);
        let key = format!("latency-{number}");
        let headers =
            [("Authorization", &*token), ("Idempotency-Key", &*key), ("X-Request-Id", &*key)];
        let answer = http::post_with(stage.api.port(), "/v1/orders", &headers, &body)?;
        if answer.status != 201 {
            let text = answer.text();
            return Err(Error::new(format!("an order was answered {}: {text}", answer.status)));
        }
        sleep(APART);
    }
    wait(psql, "select count(*) from outbox")?;
    wait(psql, UNFINISHED)?;
    drop(worker);
    number(
        psql,
        "select 1000 * percentile_cont(0.99) within group (order by extract(epoch from began - created_at)) \
         from (select e.created_at, max(j.started_at) as began \
               from events e join jobs j using (request_id) \
               where e.type = 'order.created' and request_id like 'latency-%' group by e.id, 1) as orders",
    )
}

/// Until the count is 0.
fn wait(psql: &Psql<'_>, count: &str) -> Result<()> {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if number(psql, count)? == 0.0 {
            return Ok(());
        }
        if interrupt::requested() {
            return Err(Error::interrupted());
        }
        sleep(LOOK);
    }
    Err(Error::new(format!("not all jobs were done within {} s", PATIENCE.as_secs()))
        .way_out("the log of the worker may tell why"))
}

fn number(psql: &Psql<'_>, sql: &str) -> Result<f64> {
    let text = psql.run(sql)?;
    let text = text.trim();
    text.parse().map_err(|_| Error::new(format!("Postgres answered `{text}`, which is no number")))
}
