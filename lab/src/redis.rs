//! Redis.

use std::time::Duration;

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
        let mut redis = Self { process: Process::start(launch)?, port };
        redis.wait_until_ready()?;
        Ok(redis)
    }

    /// Waits until it answers, as after a restart.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.port();
        self.process.wait_until(READY_WITHIN, || replies(port, "PING\r\n", "+PONG"))
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
