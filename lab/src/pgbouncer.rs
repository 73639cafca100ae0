//! PgBouncer, one in front of each Postgres.

use std::time::Duration;

use crate::error::Result;
use crate::net::accepts_connections;
use crate::ports::Port;
use crate::process::{Process, StopSignal};
use crate::site::{Profile, Site};

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A running PgBouncer, stopped when this is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    port: Port,
}

impl PgBouncer {
    /// Starts one that leads to the Postgres on `postgres_port`.
    pub fn start(site: &Site, name: &str, port: Port, postgres_port: u16) -> Result<Self> {
        let secrets = &site.secrets;
        let users =
            format!("\"shoal_app\" \"{}\"\n\"pgbouncer\" \"{}\"\n", secrets.app, secrets.pgbouncer);
        let auth_file = site.write_config(&format!("{name}.users"), &users)?;
        let (clients, pool, idle_seconds) = match site.profile {
            Profile::Durable => ("1000", "40", "600"),
            // Every test has a database of its own, and so a pool, which should not outlast it by much.
            Profile::ThrowAway => ("4000", "20", "5"),
        };
        let values = [
            ("POSTGRES_HOST", "127.0.0.1"),
            ("POSTGRES_PORT", &postgres_port.to_string()),
            ("LISTEN_ADDRESS", "127.0.0.1"),
            ("LISTEN_PORT", &port.number().to_string()),
            ("AUTH_FILE", &*auth_file.to_string_lossy()),
            ("MAX_CLIENT_CONN", clients),
            ("DEFAULT_POOL_SIZE", pool),
            ("SERVER_IDLE_TIMEOUT", idle_seconds),
        ];
        let config = site.configure(&format!("{name}.ini"), "pgbouncer/pgbouncer.ini", &values)?;
        // SIGINT lets running transactions end; SIGTERM would wait for every client to go.
        let launch = site
            .launch(name, &site.binaries.pgbouncer)
            .arg(config)
            .stop_signal(StopSignal::Interrupt);
        let mut pgbouncer =
            Self { process: Process::start(launch.grace(Duration::from_secs(3)))?, port };
        let number = pgbouncer.port();
        pgbouncer.process.wait_until(READY_WITHIN, || accepts_connections(number))?;
        Ok(pgbouncer)
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
