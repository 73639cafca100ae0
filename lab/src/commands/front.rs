//! What stands before the services: the API replicas and nginx.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use super::up::Options;
use crate::api::{Api, Shoal};
use crate::cargo;
use crate::demo;
use crate::error::Result;
use crate::nginx::Nginx;
use crate::ports::{Port, fixed};
use crate::process::Process;
use crate::progress::Progress;
use crate::services::joined;
use crate::site::Site;
use crate::topology::{DATABASE, Topology};

/// Its ports.
#[derive(Debug)]
pub(super) struct FrontPorts {
    nginx: Port,
    apis: Vec<Port>,
}

impl FrontPorts {
    /// None, if nothing is to stand there.
    pub(super) fn reserve(options: &Options) -> Result<Option<Self>> {
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
#[derive(Debug)]
pub(super) struct Front {
    nginx: Nginx,
    apis: Vec<Api>,
}

impl Front {
    /// Builds the API, migrates the database and starts everything; the topology is what the API sees.
    pub(super) fn start(
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

    /// Port and process of each.
    pub(super) fn processes(&mut self) -> Vec<(u16, &mut Process)> {
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
        // All are waited for before the first error is told, so that none is left starting.
        let started: Vec<_> = starting.into_iter().map(joined).collect();
        started.into_iter().collect()
    })
}
