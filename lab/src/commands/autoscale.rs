//! `cargo lab autoscale`: lets Kubernetes' autoscaler start and end replicas of this machine.

use std::fs;
use std::path::PathBuf;

use crate::api::Shoal;
use crate::autoscale::{self, Manifest, Outcome, Plan, Row, Setting};
use crate::cargo;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::progress::Progress;
use crate::services::{ServicePorts, Services};
use crate::site::{Profile, Site};
use crate::state::{self, Lock};
use crate::topology::DATABASE;

/// The directory of the servers below the target directory.
const DIR: &str = "lab-autoscale";
/// Where the report goes below the target directory.
const OUT: &str = "lab/autoscale";

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which overlay's numbers.
    pub overlay: String,
    /// Requests per second that one replica carries here.
    pub per_replica: f64,
    /// How much faster the clock goes.
    pub clock_factor: u32,
    /// The load at its peak, in replicas.
    pub peak: f64,
    /// An optimised API.
    pub release: bool,
}

/// Builds, starts, simulates, stops, and tells.
pub fn run(options: &Options) -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new();
    let manifest = Manifest::shipped(&options.overlay)?;
    let plan = Plan::carrying(manifest, options.per_replica, options.clock_factor, options.peak)?;
    let (binaries, dir) = super::set_up(DIR, &progress)?;
    let _lock = Lock::take(&dir)?.ok_or_else(|| Error::new("a simulation is already running"))?;
    // Kept until the next run where this one fails: the logs tell why.
    let site_dir = dir.join("site");
    state::stop_orphans(&site_dir, &progress);
    state::remove(&site_dir)?;
    cargo::build_api(options.release)?;
    let target = cargo::target_dir()?;
    let programs = target.join(if options.release { "release" } else { "debug" });

    let site = Site::new(&site_dir, binaries, Profile::ThrowAway)?;
    let services = Services::start(&site, ServicePorts::free()?, DATABASE, &progress)?;
    let topology = services.topology(&site);
    let shoal = Shoal::new(&topology, DATABASE, &programs.join("shoal"));
    let shoal = autoscale::patient(shoal)?.with_signing_key(&site)?;
    shoal.run(&["migrate"], "", "run the migrations")?;
    let database = topology.superuser_url(DATABASE);
    let setting = Setting { site: &site, shoal: &shoal, database: &database };
    let step = progress.step("Replicas follow the load");
    let outcome = autoscale::run(setting, &plan, |row| step.say(&line(row)))?;
    step.done();
    drop(services);
    state::remove(&site_dir)?;
    let page = write(&outcome, &target.join(OUT))?;
    tell(&outcome)?;
    println!("  {}", page.display());
    Ok(())
}

fn line(row: &Row) -> String {
    format!(
        "minute {:.1}: {:.0} requests per second, {} replicas wanted, {} ready, {} draining",
        row.at.as_secs_f64() / 60.0,
        row.measured,
        row.wanted,
        row.ready,
        row.leaving
    )
}

fn write(outcome: &Outcome, dir: &std::path::Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).cannot(|| format!("create {}", dir.display()))?;
    let page = dir.join("report.html");
    fs::write(&page, outcome.page()).cannot(|| format!("write {}", page.display()))?;
    Ok(page)
}

fn tell(outcome: &Outcome) -> Result<()> {
    let tally = &outcome.tally;
    println!(
        "\n{} requests answered, {} failed; up to {} replicas, {} in the end, {} turns",
        tally.answered,
        tally.failed,
        outcome.peak(),
        outcome.last(),
        outcome.turns()
    );
    if tally.failed > 0 {
        return Err(Error::new(format!("requests failed: {}", tally.examples.join("; "))));
    }
    Ok(())
}
