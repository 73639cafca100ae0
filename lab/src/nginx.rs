//! nginx: balances over the API replicas.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::error::{Context, Error, Result};
use crate::net::accepts_connections;
use crate::ports::Port;
use crate::process::{Process, StopSignal};
use crate::run::output_of;
use crate::site::{Site, make_dir};

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A running nginx, stopped when this is dropped.
#[derive(Debug)]
pub struct Nginx {
    site: Site,
    process: Process,
    port: Port,
}

impl Nginx {
    /// Starts one that balances over `upstreams`, of which there must be at least one.
    pub fn start(site: &Site, name: &str, port: Port, upstreams: &[SocketAddr]) -> Result<Self> {
        let run_dir = site.dir().join(name);
        make_dir(&run_dir)?;
        let upstreams_file = write_upstreams(site, name, upstreams)?;
        let values = [
            ("RUN_DIR", &*run_dir.to_string_lossy()),
            ("UPSTREAMS_FILE", &*upstreams_file.to_string_lossy()),
            ("LISTEN", &format!("127.0.0.1:{}", port.number())),
        ];
        let config = site.configure(&format!("{name}.conf"), "nginx/nginx.conf", &values)?;
        // As whoever runs the lab: a port below 1024 needs root, and nginx's workers drop to its own account.
        let launch = site
            .launch_as_self(name, &site.binaries.nginx)
            .arg("-c")
            .arg(&config)
            .args(["-e", "stderr"])
            .arg("-p")
            .arg(run_dir);
        // SIGQUIT finishes open requests, which end within the read timeout of 8 s at the latest.
        let launch = launch.stop_signal(StopSignal::Quit).grace(Duration::from_secs(3));
        let mut nginx = Self { site: site.clone(), process: Process::start(launch)?, port };
        let number = nginx.port();
        nginx.process.wait_until(READY_WITHIN, || accepts_connections(number))?;
        Ok(nginx)
    }

    /// Balances over these from now on: new connections as soon as this returns.
    pub fn set_upstreams(&mut self, upstreams: &[SocketAddr]) -> Result<()> {
        let name = self.process.name().to_owned();
        write_upstreams(&self.site, &name, upstreams)?;
        // A reload with a mistake would be refused in silence, and the old list stay.
        let mut check = Command::new(&self.site.binaries.nginx);
        check.args(["-t", "-q", "-e", "stderr", "-c"]).arg(self.site.etc(&format!("{name}.conf")));
        output_of(&mut check, "", "use the new list of API replicas")?;
        let master = self.process.pid();
        let before = workers(master);
        self.process.signal(Signal::HUP);
        // For a moment both generations accept connections.
        self.process.wait_until(READY_WITHIN, || {
            let now = workers(master);
            let is_new = |worker: &String| !before.contains(worker);
            now.iter().any(is_new) && before.iter().all(|worker| !accepts(worker))
        })
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

fn write_upstreams(site: &Site, name: &str, upstreams: &[SocketAddr]) -> Result<PathBuf> {
    if upstreams.is_empty() {
        return Err(Error::new("nginx needs at least one API replica to balance over"));
    }
    // One refused or timed-out request takes a replica out for 3 s, so a dead one costs few retries, and
    // one that is back is used soon.
    let line = |address: &SocketAddr| format!("server {address} max_fails=1 fail_timeout=3s;\n");
    let path = site.etc(&format!("{name}-upstreams.conf"));
    fs::write(&path, upstreams.iter().map(line).collect::<String>())
        .cannot(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The process numbers of the master's children.
fn workers(master: u32) -> Vec<String> {
    let children =
        fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

/// A worker that finishes its last requests says so in its title; one that is gone has none.
fn accepts(worker: &str) -> bool {
    let title = fs::read_to_string(format!("/proc/{worker}/cmdline")).unwrap_or_default();
    !title.is_empty() && !title.contains("shutting down")
}
