//! What stands before the services: the API replicas, a worker with the partners it speaks to, and nginx.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use super::up::Options;
use crate::api::{Api, Shoal, Worker};
use crate::cargo;
use crate::demo;
use crate::error::Result;
use crate::mail::MailProcess;
use crate::nginx::Nginx;
use crate::ports::{Port, fixed};
use crate::process::Process;
use crate::progress::Progress;
use crate::provider::ProviderProcess;
use crate::services::joined;
use crate::site::Site;
use crate::topology::{DATABASE, Topology};

/// Its ports.
#[derive(Debug)]
pub(super) struct FrontPorts {
    nginx: Port,
    apis: Vec<Port>,
    worker: Port,
    provider: Port,
    mail: Port,
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
            worker: Port::fixed(fixed::WORKER, "worker")?,
            provider: Port::fixed(fixed::PROVIDER, "provider")?,
            mail: Port::fixed(fixed::MAIL, "mail")?,
        }))
    }
}

/// Stopped in this order when dropped.
#[derive(Debug)]
pub(super) struct Front {
    nginx: Nginx,
    apis: Vec<Api>,
    worker: Worker,
    provider: ProviderProcess,
    mail: MailProcess,
    shoal: Shoal,
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
        let binary = cargo::target_dir()?.join(profile).join("shoal");
        let shoal = Shoal::new(topology, DATABASE, &binary).with_signing_key(site)?;

        let step = progress.step("Payment provider and mail server");
        let provider = ProviderProcess::start(site, "provider", ports.provider)?;
        let mail = MailProcess::start(site, "mail", ports.mail)?;
        let shoal = shoal
            .with_setting("SHOAL_PAYMENTS_URL", &format!("http://127.0.0.1:{}", provider.port()))
            .with_setting("SHOAL_SMTP_URL", &format!("smtp://127.0.0.1:{}", mail.port()))
            .with_setting("SHOAL_MAIL_FROM", "Shoal <shop@shoal.test>");
        step.done();

        let step = progress.step("Migrations");
        shoal.run(&["migrate"], "", "run the migrations")?;
        step.done();
        let step = progress.step("Demo products and administrator");
        demo::load(&shoal)?;
        step.done();

        let step = progress.step(format!("API replicas ({})", ports.apis.len()));
        let apis = start_apis(site, ports.apis, &shoal)?;
        step.done();
        let step = progress.step("Worker");
        let worker = Worker::start(site, "worker", ports.worker, &shoal)?;
        step.done();
        let step = progress.step("nginx");
        let upstreams: Vec<_> =
            apis.iter().map(|api| SocketAddr::from((Ipv4Addr::LOCALHOST, api.port()))).collect();
        let nginx = Nginx::start(site, "nginx", ports.nginx, &upstreams)?;
        step.done();
        demo::register_customer(nginx.port())?;
        Ok(Self { nginx, apis, worker, provider, mail, shoal })
    }

    /// What `shoal audit` has to say of all this, without what passed.
    pub(super) fn audit(&self) -> Result<String> {
        let replicas = self.apis.len().to_string();
        let mut options: Vec<String> =
            ["--max-replicas", &replicas, "--max-workers", "1"].map(str::to_owned).to_vec();
        // Of nginx only what a drain delay of zero goes with.
        options.extend(["--proxy-timeout".to_owned(), "8".to_owned()]);
        for api in &self.apis {
            options.extend(["--url".to_owned(), format!("http://127.0.0.1:{}", api.port())]);
        }
        if std::io::stdout().is_terminal() {
            options.extend(["--color".to_owned(), "always".to_owned()]);
        }
        self.shoal.audit(&options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Port and process of each.
    pub(super) fn processes(&mut self) -> Vec<(u16, &mut Process)> {
        let mut all = vec![
            (self.provider.port(), self.provider.process()),
            (self.mail.port(), self.mail.process()),
        ];
        all.extend(self.apis.iter_mut().map(|api| (api.port(), api.process())));
        all.push((self.worker.port(), self.worker.process()));
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
