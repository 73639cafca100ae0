//! `cargo lab up`: the whole system, in the foreground, until Ctrl-C.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;

use super::{supervise, table};
use crate::api::{Api, Shoal};
use crate::cargo;
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::nginx::Nginx;
use crate::ports::{Port, fixed};
use crate::process::Process;
use crate::progress::Progress;
use crate::services::{ServicePorts, Services};
use crate::site::{Profile, Site};
use crate::state::{self, Lock};
use crate::topology::{DATABASE, Topology};

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
    let service_ports = ServicePorts::fixed()?;
    let front_ports = FrontPorts::reserve(options)?;
    let site = Site::new(&dir, binaries, Profile::Durable)?;

    let mut services = Services::start(&site, service_ports, DATABASE, &progress)?;
    let topology = services.topology(&site);
    topology.write(&site)?;
    let mut front = match front_ports {
        Some(ports) => Some(Front::start(&site, &topology, ports, options, &progress)?),
        None => None,
    };

    let mut processes = services.processes();
    processes.extend(front.iter_mut().flat_map(Front::processes));
    let rows: Vec<_> =
        processes.iter().map(|(port, process)| table::Row::new(*port, process)).collect();
    table::save(&dir, &rows)?;
    println!("\n{}", table::render(&rows));
    match options.services_only {
        true => println!("  Addresses and passwords: {}", dir.join("topology.json").display()),
        false => println!("{}", demo::introduction(options.port)),
    }
    println!("  Ctrl-C stops everything; the data is kept.");
    supervise::until_interrupted(processes);

    let step = progress.step("Stopping");
    drop(front);
    drop(services);
    step.done();
    Ok(())
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

/// Ports of what stands before the services.
struct FrontPorts {
    nginx: Port,
    apis: Vec<Port>,
}

impl FrontPorts {
    fn reserve(options: &Options) -> Result<Option<Self>> {
        if options.services_only {
            return Ok(None);
        }
        let api = |number: u16| Port::fixed(fixed::API + number, &format!("api-{number}"));
        Ok(Some(Self {
            nginx: Port::fixed(options.port, "nginx")?,
            apis: (1..=options.replicas).map(api).collect::<Result<_>>()?,
        }))
    }
}

/// The API replicas and nginx, which is stopped first.
struct Front {
    nginx: Nginx,
    apis: Vec<Api>,
}

impl Front {
    fn start(
        site: &Site,
        topology: &Topology,
        ports: FrontPorts,
        options: &Options,
        progress: &Progress,
    ) -> Result<Self> {
        cargo::build_api(options.release)?;
        let profile = if options.release { "release" } else { "debug" };
        let shoal =
            Shoal::new(topology, DATABASE, &cargo::target_dir()?.join(profile).join("shoal"))
                .with_signing_key(site)?;

        let step = progress.step("Migrations");
        shoal.run(&["migrate"], "", "run the migrations")?;
        step.done();
        let step = progress.step("Demo products and administrator");
        demo::load(&shoal)?;
        step.done();

        let step = progress.step(format!("API replicas ({})", ports.apis.len()));
        let apis = start_apis(site, ports.apis, &shoal)?;
        step.done();
        let step = progress.step("nginx");
        let upstreams: Vec<_> =
            apis.iter().map(|api| SocketAddr::from((Ipv4Addr::LOCALHOST, api.port()))).collect();
        let nginx = Nginx::start(site, "nginx", ports.nginx, &upstreams)?;
        step.done();
        demo::register_customer(nginx.port())?;
        Ok(Self { nginx, apis })
    }

    fn processes(&mut self) -> Vec<(u16, &mut Process)> {
        let mut all: Vec<_> = self.apis.iter_mut().map(|api| (api.port(), api.process())).collect();
        all.push((self.nginx.port(), self.nginx.process()));
        all
    }
}

fn start_apis(site: &Site, ports: Vec<Port>, shoal: &Shoal) -> Result<Vec<Api>> {
    thread::scope(|scope| {
        let start = |(number, port): (usize, Port)| {
            scope.spawn(move || Api::start(site, &format!("api-{number}"), port, shoal))
        };
        let starting: Vec<_> = (1..).zip(ports).map(start).collect();
        let started: Vec<_> = starting.into_iter().map(thread::ScopedJoinHandle::join).collect();
        started
            .into_iter()
            .map(|api| {
                api.unwrap_or_else(|_| {
                    Err(Error::new("a thread that started an API replica panicked"))
                })
            })
            .collect()
    })
}
