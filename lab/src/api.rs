//! Replicas of the API, workers, and the service's other commands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Result;
use crate::net::replies;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::run::{output_of, said};
use crate::site::{Site, write_private};
use crate::topology::Topology;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// What every process of the service is set to here, unless it is to be otherwise.
const OWN: [(&str, &str); 5] = [
    ("HOST", "127.0.0.1"),
    ("TRUSTED_PROXIES", "127.0.0.1/32"),
    ("SHOAL_LOG_FORMAT", "json"),
    ("RUST_LOG", "info"),
    // The delay gives a balancer time to notice. When the lab stops, nginx has gone before, and the
    // delay would only keep whoever pressed Ctrl-C waiting.
    ("SHOAL_DRAIN_DELAY_MS", "0"),
];

/// How `shoal` is run in a site.
#[derive(Clone, Debug)]
pub struct Shoal {
    binary: PathBuf,
    env: Vec<(String, String)>,
    cores: Option<String>,
}

impl Shoal {
    /// The binary, for a database of this topology.
    #[must_use]
    pub fn new(topology: &Topology, database: &str, binary: &Path) -> Self {
        Self { binary: binary.to_owned(), env: environment(topology, database), cores: None }
    }

    /// With a setting of its own.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With limits of rates so high that they are asked, and never say no: a load generator is one client with
    /// the appetite of thousands.
    pub fn without_limits(self) -> Result<Self> {
        let settings = self.run(&["env"], "", "list the settings")?;
        let limits = settings.lines().filter_map(|line| {
            let (name, default) = line.trim_start_matches('#').split_once('=')?;
            let (_, seconds) = default.split_once('/')?;
            name.starts_with("SHOAL_RATE_LIMIT_").then(|| (name, format!("1000000000/{seconds}")))
        });
        Ok(limits.fold(self, |shoal, (name, limit)| shoal.with_setting(name, &limit)))
    }

    /// With its replicas kept on these cores, given as `taskset --cpu-list` wants them.
    #[must_use]
    pub fn on_cores(mut self, cores: &str) -> Self {
        self.cores = Some(cores.to_owned());
        self
    }

    /// With a key to sign tokens, made the first time.
    pub fn with_signing_key(mut self, site: &Site) -> Result<Self> {
        let key = site.dir().join("jwt.pem");
        if !key.exists() {
            write_private(&key, &self.run(&["keys", "generate"], "", "make a signing key")?)?;
        }
        self.env.push(("JWT_PRIVATE_KEYS_FILE".to_owned(), key.to_string_lossy().into_owned()));
        Ok(self)
    }

    /// Another program that reads the same environment.
    #[must_use]
    pub(crate) fn with_binary(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// The program, to be started in the site as a process that stays.
    pub(crate) fn launch(&self, site: &Site, name: &str) -> Launch {
        let env = self.env.iter().cloned();
        site.launch_as_self(name, &self.binary).env(env).on_cores(self.cores.as_deref())
    }

    /// Runs one of its short commands; `what` completes the sentence "cannot …".
    pub fn run(&self, args: &[&str], input: &str, what: &str) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(args).env_clear().envs(self.env.iter().cloned());
        command.envs(
            ["PATH", "HOME", "RUST_BACKTRACE"]
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        output_of(&mut command, input, what)
    }
}

impl Shoal {
    /// What `shoal audit` says, as one that is started here would be set, whether all is well or not.
    pub(crate) fn audit(&self, options: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(["audit", "--brief"]).args(options).env_clear();
        let own = OWN.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        command.envs(own.chain(self.env.iter().cloned()));
        said(&mut command, "audit the servers")
    }
}

/// A running API replica, stopped when this is dropped.
#[derive(Debug)]
pub struct Api {
    process: Process,
    port: Port,
}

impl Api {
    /// Starts `shoal serve`.
    pub fn start(site: &Site, name: &str, port: Port, shoal: &Shoal) -> Result<Self> {
        Ok(Self { process: start(site, name, "serve", &port, shoal)?, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, to freeze, kill or restart it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A running worker, stopped when this is dropped.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    port: Port,
}

impl Worker {
    /// Starts `shoal worker`.
    pub fn start(site: &Site, name: &str, port: Port, shoal: &Shoal) -> Result<Self> {
        Ok(Self { process: start(site, name, "worker", &port, shoal)?, port })
    }

    /// The port of its health and metrics.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process, to freeze, kill or restart it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Starts the binary in one of its roles, and waits until it is ready.
fn start(site: &Site, name: &str, role: &str, port: &Port, shoal: &Shoal) -> Result<Process> {
    let number = port.number();
    let port = number.to_string();
    let own = OWN.iter().copied().chain([("PORT", &*port)]);
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let launch = site.launch_as_self(name, &shoal.binary).arg(role);
    // Last, so that `with_setting` can replace what the lab would set.
    let launch = launch.env(own).env(shoal.env.iter().cloned());
    let mut process = Process::start(launch.on_cores(shoal.cores.as_deref()))?;
    let request = "GET /health/ready HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    process.wait_until(READY_WITHIN, || replies(number, request, "HTTP/1.1 200"))?;
    Ok(process)
}

/// Where everything is, in the service's own variables.
fn environment(topology: &Topology, database: &str) -> Vec<(String, String)> {
    let s3 = &topology.s3;
    [
        ("DATABASE_URL", topology.app_url(database)),
        ("DATABASE_REPLICA_URLS", topology.app_replica_urls(database).join(",")),
        ("DATABASE_DIRECT_URL", topology.migrator_url(database)),
        ("REDIS_URL", topology.redis_url.clone()),
        ("S3_BUCKET", s3.bucket.clone()),
        ("S3_ENDPOINT", s3.endpoint.clone()),
        ("SHOAL_S3_PATH_STYLE", "true".to_owned()),
        // Receivers of webhooks are on the same machine.
        ("SHOAL_WEBHOOK_ALLOW_INSECURE", "true".to_owned()),
        ("AWS_REGION", s3.region.clone()),
        ("AWS_ACCESS_KEY_ID", s3.access_key.clone()),
        ("AWS_SECRET_ACCESS_KEY", s3.secret_key.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}
