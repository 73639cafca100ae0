//! Redis: a single one, or a cluster.

mod cluster;

use std::time::Duration;

pub use cluster::{ClusterPorts, RedisCluster};

use crate::error::Result;
use crate::net::replies;
use crate::ports::Port;
use crate::process::Process;
use crate::site::Site;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A running Redis, stopped when this is dropped. It comes back empty from a restart.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: Port,
}

impl Redis {
    /// Starts one.
    pub fn start(site: &Site, name: &str, port: Port) -> Result<Self> {
        Self::start_with(site, name, port, &[])
    }

    /// Starts one with more settings, each a name and its value.
    fn start_with(site: &Site, name: &str, port: Port, settings: &[(&str, &str)]) -> Result<Self> {
        let dir = site.make_data_dir(name)?;
        let launch = site
            .launch(name, &site.binaries.redis_server)
            .args(["--bind", "127.0.0.1", "--port"])
            .arg(port.number().to_string());
        let launch = launch.arg("--dir").arg(dir);
        // Nothing in it has to survive: what must not be lost is in Postgres.
        let launch = launch.args(["--save", "", "--appendonly", "no"]);
        // Full means that writes are refused. Eviction could drop the mark of a newer write and so let an
        // older value into the cache.
        let launch = launch.args(["--maxmemory", "256mb", "--maxmemory-policy", "noeviction"]);
        let launch = settings
            .iter()
            .fold(launch, |launch, (name, value)| launch.args([&format!("--{name}"), *value]));
        let mut redis = Self { process: Process::start(launch)?, port };
        redis.wait_until_ready()?;
        Ok(redis)
    }

    /// Waits until it answers, as after a restart.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.port();
        self.process.wait_until(READY_WITHIN, || replies(port, "PING\r\n", "+PONG"))
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
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
