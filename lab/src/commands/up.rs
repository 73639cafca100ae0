//! `cargo lab up`: the whole system, in the foreground, until Ctrl-C.

use std::fs;
use std::path::Path;

use super::front::{Front, FrontPorts};
use super::running::Running;
use super::{supervise, table};
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::fault::control::Control;
use crate::fault::ways::Ways;
use crate::interrupt;
use crate::ports::fixed;
use crate::progress::Progress;
use crate::services::{ServicePorts, Services};
use crate::site::{Profile, Site};
use crate::state::{self, Lock};
use crate::topology::DATABASE;

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many API replicas.
    pub replicas: u16,
    /// nginx's port.
    pub port: u16,
    /// Begin without the data of earlier runs.
    pub fresh: bool,
    /// Neither the API nor nginx.
    pub services_only: bool,
    /// An optimised API.
    pub release: bool,
    /// A proxy before every server, for `cargo lab fault`.
    pub faults: bool,
    /// A Redis Cluster instead of a single Redis.
    pub redis_cluster: bool,
}

/// Starts everything, waits for Ctrl-C, stops everything.
pub fn run(options: &Options) -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new();
    let (binaries, dir) = super::set_up(super::UP, &progress)?;
    let _lock = Lock::take(&dir)?.ok_or_else(|| already_running(&dir))?;
    state::stop_orphans(&dir, &progress);
    table::clear(&dir);
    if options.fresh {
        wipe(&dir)?;
    }
    let ports = if options.redis_cluster {
        ServicePorts::fixed_with_redis_cluster(announced_offset(options))?
    } else {
        ServicePorts::fixed()?
    };
    let front_ports = FrontPorts::reserve(options)?;
    let site = Site::new(&dir, binaries, Profile::Durable)?;

    let services = Services::start(&site, ports, DATABASE, &progress)?;
    let topology = services.topology(&site);
    topology.write(&site)?;
    let ways = match options.faults {
        true => Some(Ways::before(&topology, &services.redis_names())?),
        false => None,
    };
    let seen_by_the_api = match &ways {
        Some(ways) => ways.lead_through(&topology)?,
        None => topology,
    };
    let front = match front_ports {
        Some(ports) => Some(Front::start(&site, &seen_by_the_api, ports, options, &progress)?),
        None => None,
    };

    let mut running = Running::new(front, ways, services);
    let control = options.faults.then(|| Control::listen(&dir)).transpose()?;
    let rows = running.rows();
    table::save(&dir, &rows)?;
    println!("\n{}", table::render(&rows));
    if let Some(front) = &running.front {
        // What it finds is told, and is no reason to stop.
        match front.audit() {
            Ok(said) => println!("  Audit, without what passed:\n{}\n", indented(&said)),
            Err(error) => println!("  {error}\n"),
        }
    }
    match options.services_only {
        true => println!("  Addresses and passwords: {}", dir.join("topology.json").display()),
        false => println!("{}", demo::introduction(options.port)),
    }
    if options.faults {
        println!("  `cargo lab fault` shows what can be broken, and how.");
    }
    println!("  Ctrl-C stops everything; the data is kept.");
    supervise::until_interrupted(&dir, &mut running, control.as_ref());

    let step = progress.step("Stopping");
    drop(control);
    drop(running);
    step.done();
    Ok(())
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// Nodes of a cluster tell clients where the others are: with proxies, behind those.
fn announced_offset(options: &Options) -> u16 {
    if options.faults { fixed::FAULTS } else { 0 }
}

fn already_running(dir: &Path) -> Error {
    let who =
        state::holder(dir).map_or_else(String::new, |holder| format!(" as process {}", holder.pid));
    Error::new(format!("a lab is already running{who}"))
        .way_out("`cargo lab status` shows it, `cargo lab down` stops it")
}

/// Everything but the lock, which this process holds.
fn wipe(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).cannot(|| format!("read {}", dir.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with("lock")) {
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.cannot(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
