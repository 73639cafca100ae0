//! Postgres: a primary, and streaming replicas copied from it.

mod in_memory;
mod own;
mod replay;
mod synchronous;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use own::OwnPostgres;

use crate::account::Account;
use crate::error::{Context, Error, Result};
use crate::install::postgres_major;
use crate::ports::Port;
use crate::process::{Process, StopSignal};
use crate::psql::Psql;
use crate::run::output_of;
use crate::site::{Profile, Site, repository};

/// Recovery after a power cut replays at most a gigabyte of WAL.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running Postgres, stopped when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    site: Site,
    process: Process,
    port: Port,
}

/// Whom a Postgres follows.
#[derive(Clone, Copy, Debug)]
enum Follows<'a> {
    Nobody,
    Primary { port: u16, slot: &'a str },
}

impl Postgres {
    /// Starts a primary; its data directory is made the first time.
    pub fn start_primary(site: &Site, name: &str, port: Port) -> Result<Self> {
        if !is_complete(site, name)? {
            init(site, name)?;
        }
        Self::start(site, name, port, Follows::Nobody)
    }

    /// Starts a streaming replica of the primary on `primary_port`, which has the roles of [`create_roles`].
    /// Its data is copied the first time, and when it is of another primary.
    pub fn start_replica(site: &Site, name: &str, port: Port, primary_port: u16) -> Result<Self> {
        let primary = Psql::new(site, primary_port, "postgres");
        let cluster = primary.run("select system_identifier from pg_control_system()")?;
        let slot = name.replace('-', "_");
        if !is_complete(site, name)?
            || fs::read_to_string(marker(site, name)).ok().as_deref() != Some(&cluster)
        {
            copy(site, name, &primary, primary_port, &slot)?;
            fs::write(marker(site, name), cluster).cannot(|| format!("mark {name} as complete"))?;
        }
        Self::start(site, name, port, Follows::Primary { port: primary_port, slot: &slot })
    }

    fn start(site: &Site, name: &str, port: Port, follows: Follows<'_>) -> Result<Self> {
        let config = configure(site, name, &port, follows)?;
        let launch = site.launch(name, &site.binaries.postgres_dir.join("postgres"));
        let stop_signal = match site.profile {
            // Ends sessions, writes a checkpoint.
            Profile::Durable => StopSignal::Interrupt,
            // Ends at once; nobody will read the data again.
            Profile::ThrowAway => StopSignal::Quit,
        };
        let launch = launch
            .arg(format!("--config-file={}", config.display()))
            .stop_signal(stop_signal)
            .grace(Duration::from_secs(20));
        let mut postgres = Self { site: site.clone(), process: Process::start(launch)?, port };
        postgres.wait_until_ready()?;
        Ok(postgres)
    }

    /// Waits until it lets clients in, as after a restart.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let (site, port) = (&self.site, self.port.number());
        self.process.wait_until(READY_WITHIN, || accepts_connections(site, port))
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

/// Creates the roles, and a database that the migrator owns. Does nothing where they exist.
pub fn create_roles(site: &Site, primary_port: u16, database: &str) -> Result<()> {
    let env = [
        ("SHOAL_DATABASE", database),
        ("SHOAL_MIGRATOR_PASSWORD", &site.secrets.migrator),
        ("SHOAL_APP_PASSWORD", &site.secrets.app),
        ("SHOAL_REPLICATION_PASSWORD", &site.secrets.replication),
    ];
    Psql::new(site, primary_port, "postgres")
        .run_file(&repository().join("postgres/roles.sql"), &env)?;
    Ok(())
}

/// Whether there is a data directory that was never finished: the lab was killed while it was made.
pub(crate) fn is_half_made(site: &Site, name: &str) -> bool {
    site.data(name).exists() && !marker(site, name).exists()
}

/// Written last, so its absence tells that a data directory is unfinished.
fn marker(site: &Site, name: &str) -> PathBuf {
    site.data(&format!("{name}.complete"))
}

fn is_complete(site: &Site, name: &str) -> Result<bool> {
    let dir = site.data(name);
    if !dir.exists() || !marker(site, name).exists() {
        return Ok(false);
    }
    let made_by = fs::read_to_string(dir.join("PG_VERSION"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    let installed = postgres_major(&site.binaries.postgres_dir);
    match (made_by, installed) {
        (Some(made_by), Some(installed)) if made_by != installed => Err(Error::new(format!(
            "{} was made by Postgres {made_by}; Postgres {installed} cannot read it",
            dir.display()
        ))
        .way_out(format!(
            "`cargo lab up --fresh` starts anew without the data, or install Postgres {made_by}"
        ))),
        (made_by, _) => Ok(made_by.is_some()),
    }
}

fn clear(site: &Site, name: &str) -> Result<PathBuf> {
    // The marker goes first: from here on the directory counts as unfinished.
    let _ = fs::remove_file(marker(site, name));
    let dir = site.data(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).cannot(|| format!("remove {}", dir.display()))?;
    }
    Ok(dir)
}

fn init(site: &Site, name: &str) -> Result<()> {
    let dir = clear(site, name)?;
    let password =
        site.write_config(&format!("{name}.initial-password"), &site.secrets.superuser)?;
    let mut command = as_account(site.account.as_ref(), &site.binaries.postgres_dir.join("initdb"));
    command.arg("--pgdata").arg(&dir).arg("--pwfile").arg(&password);
    // The locale sorts by code point, as Rust does, on every machine.
    command.args([
        "--username=postgres",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    ]);
    command.arg(if site.profile == Profile::ThrowAway { "--no-sync" } else { "--data-checksums" });
    output_of(&mut command, "", &format!("make the data directory of {name}"))?;
    let _ = fs::remove_file(password);
    fs::write(marker(site, name), "").cannot(|| format!("mark {name} as complete"))
}

fn copy(site: &Site, name: &str, primary: &Psql<'_>, primary_port: u16, slot: &str) -> Result<()> {
    let dir = clear(site, name)?;
    // Made anew: an old slot may stand before or behind what the copy needs.
    primary.run(&format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}' and not active;
         select pg_create_physical_replication_slot('{slot}', true)"
    ))?;
    let mut command =
        as_account(site.account.as_ref(), &site.binaries.postgres_dir.join("pg_basebackup"));
    command.args([
        "--host=127.0.0.1",
        "--username=shoal_replication",
        "--no-password",
        "--checkpoint=fast",
    ]);
    command
        .arg(format!("--port={primary_port}"))
        .arg(format!("--slot={slot}"))
        .arg("--pgdata")
        .arg(&dir);
    if site.profile == Profile::ThrowAway {
        command.args(["--no-sync", "--no-manifest"]);
    }
    command.env("PGPASSWORD", &site.secrets.replication);
    output_of(&mut command, "", &format!("copy the primary to {name}"))?;
    make_standby(site, &dir)
}

/// Makes what starts from this data directory a replica.
fn make_standby(site: &Site, data: &Path) -> Result<()> {
    let signal = data.join("standby.signal");
    fs::write(&signal, "").cannot(|| format!("write {}", signal.display()))?;
    site.own(&signal)
}

fn configure(site: &Site, name: &str, port: &Port, follows: Follows<'_>) -> Result<PathBuf> {
    let networks = [("CLIENT_NETWORK", "127.0.0.1/32"), ("REPLICA_NETWORK", "127.0.0.1/32")];
    let hba = site.configure(&format!("{name}.hba"), "postgres/pg_hba.conf", &networks)?;
    let password = &site.secrets.replication;
    let (conninfo, slot) = match follows {
        Follows::Nobody => (String::new(), ""),
        Follows::Primary { port, slot } => (
            format!(
                "host=127.0.0.1 port={port} user=shoal_replication password={password} application_name={name} connect_timeout=3"
            ),
            slot,
        ),
    };
    let (max_connections, shared_buffers, durable) = match (site.profile, follows) {
        (Profile::Durable, _) => ("200", "128MB", "on"),
        // Every test has a database, and so pools, of its own.
        (Profile::ThrowAway, Follows::Nobody) => ("500", "64MB", "off"),
        (Profile::ThrowAway, Follows::Primary { .. }) => ("500", "32MB", "off"),
    };
    let data = site.data(name);
    let values = [
        ("DATA_DIRECTORY", &*data.to_string_lossy()),
        ("HBA_FILE", &*hba.to_string_lossy()),
        ("NAME", name),
        ("LISTEN_ADDRESS", "127.0.0.1"),
        ("PORT", &port.number().to_string()),
        ("MAX_CONNECTIONS", max_connections),
        ("SHARED_BUFFERS", shared_buffers),
        ("DURABLE", durable),
        ("PRIMARY_CONNINFO", &conninfo),
        ("PRIMARY_SLOT", slot),
    ];
    site.configure(&format!("{name}.conf"), "postgres/postgresql.conf", &values)
}

/// A short-lived program under the servers' account.
fn as_account(account: Option<&Account>, program: &Path) -> Command {
    let mut command = match account {
        None => Command::new(program),
        Some(account) => {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", &account.name, "--regid", &account.name, "--init-groups", "--"])
                .arg(program);
            command
        }
    };
    // The lab's own directory may be closed to the account.
    command.current_dir("/").env("LC_ALL", "C.UTF-8").env_remove("PGOPTIONS");
    command
}

fn accepts_connections(site: &Site, port: u16) -> bool {
    let mut command = Command::new(site.binaries.postgres_dir.join("pg_isready"));
    command.args(["--quiet", "--host=127.0.0.1", "--timeout=1"]).arg(format!("--port={port}"));
    command.status().is_ok_and(|status| status.success())
}
