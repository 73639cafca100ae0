//! `cargo lab bench`: what a request costs, side by side with what it would cost without the service around it.
//!
//! One core runs what is measured: a replica of the service, or a bare handler ([`baseline`]), or a client that
//! does nothing else (`pgbench`, `redis_benchmark`). The other cores run the load (`wrk`) and the servers.
//! Contenders take turns, so that a machine that is slow for a while is slow for all of them.
//!
//! - `stage` starts and fills everything, `data` is the shop; `workloads` says what is asked for, of whom.
//! - `knee` sends a mix over more and more connections.
//! - `proc`, `metrics` and `figures` measure; `targets` says what must be reached.
//! - `report` tells: on the terminal, as JSON, as a page.

pub mod baseline;
pub mod workloads;

mod cold_key;
pub(crate) mod cores;
mod data;
mod deliveries;
pub(crate) mod figures;
pub(crate) mod http;
mod jobs;
mod knee;
mod machine;
pub(crate) mod metrics;
mod pgbench;
pub(crate) mod proc;
mod redis_benchmark;
pub(crate) mod report;
mod sql;
mod stage;
mod streams;
mod targets;
mod uploads;
mod wrk;

use std::path::Path;
use std::time::{Duration, Instant};

use cores::Cores;
use figures::{Kind, Sample};
use machine::Machine;
use metrics::Counters;
use pgbench::Pgbench;
use proc::Memory;
use redis_benchmark::RedisBenchmark;
use report::Report;
use stage::Stage;
use workloads::{CONNECTIONS, Load, Per, Plan, Side, Workload};
use wrk::Wrk;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::Progress;
use crate::site::Site;
use crate::topology::DATABASE;

/// Fills caches, plans and connections before each measurement.
const WARM_UP_SECONDS: u64 = 1;

/// How long and what.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) seconds: u64,
    pub(crate) rounds: u32,
    pub(crate) workloads: Vec<Workload>,
}

/// What runs where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) site: &'a Site,
    pub(crate) cores: &'a Cores,
    /// The directory of the optimised programs.
    pub(crate) programs: &'a Path,
    pub(crate) wrk: &'a Path,
}

/// Starts everything, measures, and stops everything.
pub(crate) fn run(setting: Setting<'_>, extent: &Extent, progress: &Progress) -> Result<Report> {
    let mut stage = Stage::set(setting.site, setting.cores, setting.programs, progress)?;
    let mut plans = Vec::new();
    for workload in &extent.workloads {
        plans.extend(Plan::new(*workload, &stage)?);
    }
    for round in 1..=extent.rounds {
        for plan in &mut plans {
            let title = format!("Round {round} of {}: {}", extent.rounds, plan.table.title);
            let step = progress.step(title);
            for index in 0..plan.loads.len() {
                step.say(&plan.table.rows[index].name);
                let sample = measure(setting.wrk, &mut stage, plan, index, extent.seconds)?;
                plan.table.rows[index].samples.push(sample);
            }
            step.done();
        }
    }
    let memory = match plans.is_empty() {
        true => None,
        false => Some(Memory::of(stage.api.process().pid())?),
    };
    let cold_key = match extent.workloads.contains(&Workload::Cold) {
        true => {
            let step = progress.step("Many requests for a cold product");
            let cold_key = cold_key::run(&stage)?;
            step.done();
            Some(cold_key)
        }
        false => None,
    };
    let machine = Machine::describe(setting.cores, &setting.site.binaries, setting.wrk);
    let tables: Vec<_> = plans.into_iter().map(|plan| plan.table).collect();
    let mut targets = targets::targets(&tables, cold_key.as_ref(), memory);
    if extent.workloads.contains(&Workload::Jobs) {
        targets.extend(jobs::run(&stage, setting.programs, progress)?);
    }
    if extent.workloads.contains(&Workload::Deliveries) {
        let step = progress.step("Webhooks");
        targets.extend(deliveries::run(&stage)?);
        step.done();
    }
    if extent.workloads.contains(&Workload::Streams) {
        let step = progress.step("Live streams");
        targets.extend(streams::run(&stage)?);
        step.done();
    }
    if extent.workloads.contains(&Workload::Uploads) {
        let step = progress.step("Uploads");
        targets.extend(uploads::run(&stage)?);
        step.done();
    }
    let knee = match extent.workloads.contains(&Workload::Knee) {
        true => {
            let extent = (extent.seconds, extent.rounds);
            Some(knee::run(&mut stage, setting.wrk, extent, progress)?)
        }
        false => None,
    };
    Ok(Report {
        machine,
        seconds: extent.seconds,
        rounds: extent.rounds,
        tables,
        cold_key,
        knee,
        memory,
        targets,
    })
}

/// Warms up, runs one load and reads what the kernel, the service and PgBouncer have counted meanwhile.
fn measure(
    wrk: &Path,
    stage: &mut Stage<'_>,
    plan: &Plan,
    index: usize,
    seconds: u64,
) -> Result<Sample> {
    let (load, kind) = (&plan.loads[index], plan.table.rows[index].kind);
    let server = match kind {
        Kind::Service => Some((stage.api.process().pid(), stage.api.port())),
        Kind::Bare | Kind::BareRedis | Kind::BareQuery => {
            Some((stage.bare.pid(), stage.bare_port()))
        }
        Kind::Pgbench | Kind::RedisBenchmark => None,
    };
    if plan.round_trips == Some(Per::Order) {
        // Behind a checkpoint each page is logged whole once: for every contender alike.
        stage.checkpoint()?;
    }
    if server.is_some() {
        send(wrk, stage, load, server, WARM_UP_SECONDS)?;
    }
    let cache = plan.cache.filter(|_| kind == Kind::Service);
    let counts = kind == Kind::Service && (cache.is_some() || plan.round_trips.is_some());
    let scrape = || counts.then(|| Counters::scrape(stage.api.port())).transpose();
    let trips = || plan.round_trips.map(|per| stage.round_trips(per)).transpose();

    // In this order: round trips are counted once nothing is on its way any more.
    let (trips_before, counters) = (trips()?, scrape()?);
    let began = Busy::now(stage.cores, server)?;
    let mut sample = send(wrk, stage, load, server, seconds)?;
    let ended = Busy::now(stage.cores, server)?;
    let (trips_after, counters_after) = (trips()?, scrape()?);

    if interrupt::requested() {
        return Err(Error::interrupted());
    }
    if server.is_some() {
        let own = ended.process.saturating_sub(began.process);
        let all = ended.core.saturating_sub(began.core);
        sample.cpu_seconds = Some(own.as_secs_f64());
        let is_alone = !matches!(load, Load::Wrk { side: Side::Subject, .. });
        let others = all.saturating_sub(own).div_duration_f64(ended.at - began.at);
        sample.disturbed = is_alone.then_some(others);
    }
    if let (Some(before), Some(after), Some(cache)) = (&counters, &counters_after, cache) {
        let hits = [("cache", cache), ("result", "hit")];
        let grown = after.growth(before, "cache_requests_total", &hits);
        // Requests that were on their way when wrk stopped were counted by the service only.
        sample.hit_rate = grown.map(|hits| (hits / sample.requests.max(1) as f64).min(1.0));
    }
    if let (Some(before), Some(after)) = (&trips_before, &trips_after) {
        let orders = after.orders_since(before);
        sample.statements = statements(counters.as_ref(), counters_after.as_ref())
            .zip(orders)
            .map(|(statements, orders)| statements / orders as f64);
        sample.round_trips = after.per_order_since(before).or_else(|| {
            let requests = Some(sample.requests).filter(|count| *count > 0)?;
            Some(after.since(before) as f64 / requests as f64)
        });
    }
    Ok(sample)
}

/// What the service has sent to the primary for transactions. Its checks of sessions, which fall due by time
/// and not by order, are selects; what watches the databases is not counted there.
fn statements(before: Option<&Counters>, after: Option<&Counters>) -> Option<f64> {
    let (before, after) = before.zip(after)?;
    let sent = |labels: &[_]| after.growth(before, "db_query_duration_seconds_count", labels);
    Some(sent(&[("pool", "primary")])? - sent(&[("pool", "primary"), ("query", "select")])?)
}

fn send(
    wrk: &Path,
    stage: &Stage<'_>,
    load: &Load,
    server: Option<(u32, u16)>,
    seconds: u64,
) -> Result<Sample> {
    let core = &stage.cores.subject_list();
    match load {
        Load::Wrk { script, connections, side } => {
            let (_, port) = server.ok_or_else(|| Error::new("wrk has nobody to ask"))?;
            let (cores, threads) = match side {
                Side::Servers => (stage.cores.others_list(), stage.cores.load_threads()),
                Side::Subject => (stage.cores.subject_list(), 1),
            };
            let connections = *connections;
            Wrk { program: wrk, cores: &cores, script, port, threads, connections }.run(seconds)
        }
        Load::RedisBenchmark { key } => {
            let port = stage.redis_port()?;
            RedisBenchmark { core, port, connections: CONNECTIONS, key }.run(seconds)
        }
        Load::Pgbench { script } => Pgbench {
            core,
            topology: &stage.topology,
            database: DATABASE,
            data: &stage.data,
            script,
            connections: CONNECTIONS,
        }
        .run(seconds),
    }
}

/// Time that was spent until a moment.
struct Busy {
    at: Instant,
    /// By the server that is measured.
    process: Duration,
    /// On the measured core, by anybody.
    core: Duration,
}

impl Busy {
    fn now(cores: &Cores, server: Option<(u32, u16)>) -> Result<Self> {
        let process = server.map(|(pid, _)| proc::cpu_time(pid)).transpose()?;
        let core = proc::core_busy(cores.subject)?;
        Ok(Self { at: Instant::now(), process: process.unwrap_or_default(), core })
    }
}
