//! A primary with replicas of a test's own, to lag, stop and promote: those of the topology serve every
//! test at the same time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::in_memory::InMemory;
use super::{Follows, Postgres, StopSignal, clear, create_roles, make_standby, marker};
use crate::api::Shoal;
use crate::error::{Context, Error, Result};
use crate::node::{Node, pooler_name, postgres_name};
use crate::pgbouncer::PgBouncer;
use crate::ports::Port;
use crate::psql::Psql;
use crate::run::output_of;
use crate::services::joined;
use crate::site::{Site, make_dir};
use crate::topology::{DATABASE, PostgresNode, Topology};

/// The site, below the topology's, whose data directory all are copied from.
const TEMPLATE: &str = "own-postgres-template";
/// The service takes no more replicas than this, so no test needs more.
const MOST_REPLICAS: usize = 8;

/// A running primary with replicas, each behind its PgBouncer; stopped and removed when this is dropped.
///
/// It has the topology's roles and passwords and one database, [`DATABASE`], with the current schema. All
/// are copies of one data directory, and so have the same system identifier, which is not the topology's.
#[derive(Debug)]
pub struct OwnPostgres {
    /// Stopped first.
    pub replicas: Vec<Node>,
    /// Takes writes.
    pub primary: Node,
    topology: Topology,
    _files: Files,
}

/// The files of a site, which go with it.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    _data: Option<InMemory>,
}

impl OwnPostgres {
    /// Starts one. The first of a test run makes the template, with the schema that `shoal`, the service's
    /// binary, makes.
    pub fn start(topology: &Topology, shoal: &Path, replicas: usize) -> Result<Self> {
        if replicas > MOST_REPLICAS {
            return Err(Error::new(format!("{replicas} replicas are more than {MOST_REPLICAS}")));
        }
        let template = template(topology, shoal)?;
        let (site, files) = site(topology)?;
        for number in 0..=replicas {
            copy(&site, &template, number)?;
        }
        forget_slots(&site, replicas)?;
        let (primary, replicas) = start_all(&site, replicas)?;
        let topology = Topology {
            primary: primary.describe(0),
            replicas: (1..).zip(&replicas).map(|(number, node)| node.describe(number)).collect(),
            ..topology.clone()
        };
        Ok(Self { replicas, primary, topology, _files: files })
    }

    /// The topology it was started beside, with this primary and these replicas instead of the shared ones.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // The logs of a test that failed are worth keeping.
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn site(topology: &Topology) -> Result<(Site, Files)> {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let name = format!("own-postgres-{}-{number}", std::process::id());
    let dir = topology.scratch_dir(&name);
    make_dir(&dir)?;
    let files = Files { _data: InMemory::link(&dir.join("data"))?, dir };
    Ok((Site::beside(topology, &name)?, files))
}

/// A data directory that was shut down cleanly, so that copies of it start at once and are the same.
fn template(topology: &Topology, shoal: &Path) -> Result<PathBuf> {
    let dir = topology.scratch_dir(TEMPLATE);
    // Before anything of it is made: two that make its secrets at once would have different ones.
    let lock = dir.with_extension("lock");
    fs::create_dir_all(&dir).cannot(|| format!("make {}", dir.display()))?;
    let held = File::create(&lock).cannot(|| format!("write {}", lock.display()))?;
    held.lock().cannot(|| format!("lock {}", lock.display()))?;
    let site = Site::beside(topology, TEMPLATE)?;
    let name = postgres_name(0);
    let finished = site.data("template-is-finished");
    if !finished.exists() {
        clear(&site, &name)?;
        make_template(topology, &site, shoal)?;
        fs::write(&finished, "").cannot(|| format!("write {}", finished.display()))?;
    }
    Ok(site.data(&name))
}

fn make_template(topology: &Topology, site: &Site, shoal: &Path) -> Result<()> {
    let name = postgres_name(0);
    let mut postgres = Postgres::start_primary(site, &name, Port::free()?)?;
    let port = postgres.port();
    create_roles(site, port, DATABASE)?;
    let primary = PostgresNode { name, port, pooler_port: port, ..topology.primary.clone() };
    let here = Topology { primary, replicas: Vec::new(), ..topology.clone() };
    Shoal::new(&here, DATABASE, shoal).run(&["migrate"], "", "run the migrations")?;
    let slots: Vec<String> = (1..=MOST_REPLICAS)
        .map(|number| format!("pg_create_physical_replication_slot('{}', true)", slot(number)))
        .collect();
    // Nobody makes databases there, and without these two a copy is half as large.
    let spare = ["template0", "template1"]
        .map(|name| format!("alter database {name} is_template false; drop database {name};"));
    Psql::new(site, port, "postgres").run(&format!(
        "select {};\n{}",
        slots.join(", "),
        spare.join("\n")
    ))?;
    postgres.process().stop_by(StopSignal::Interrupt);
    Ok(())
}

fn copy(site: &Site, template: &Path, number: usize) -> Result<()> {
    let name = postgres_name(number);
    let data = site.data(&name);
    let mut command = Command::new("cp");
    command.args(["--archive", "--reflink=auto"]).arg(template).arg(&data);
    output_of(&mut command, "", &format!("copy {}", template.display()))?;
    if number > 0 {
        // Slots are for the primary to keep.
        (1..=MOST_REPLICAS).try_for_each(|slot| forget_slot(&data, slot))?;
        make_standby(site, &data)?;
    }
    fs::write(marker(site, &name), "").cannot(|| format!("mark {name} as complete"))
}

/// Without its replica a slot would only keep what nobody will fetch.
fn forget_slots(site: &Site, replicas: usize) -> Result<()> {
    let data = site.data(&postgres_name(0));
    (replicas + 1..=MOST_REPLICAS).try_for_each(|number| forget_slot(&data, number))
}

fn forget_slot(data: &Path, number: usize) -> Result<()> {
    let dir = data.join("pg_replslot").join(slot(number));
    fs::remove_dir_all(&dir).cannot(|| format!("remove {}", dir.display()))
}

fn start_all(site: &Site, replicas: usize) -> Result<(Node, Vec<Node>)> {
    let primary = Postgres::start_primary(site, &postgres_name(0), Port::free()?)?;
    let primary_port = primary.port();
    thread::scope(|scope| {
        let pooler = scope.spawn(move || start_pooler(site, 0, primary_port));
        let replicas: Vec<_> = (1..=replicas)
            .map(|number| scope.spawn(move || start_replica(site, number, primary_port)))
            .collect();
        // All are waited for before the first error is told, so that none is left starting.
        let pooler = joined(pooler);
        let replicas: Vec<_> = replicas.into_iter().map(joined).collect();
        let replicas = replicas.into_iter().collect::<Result<_>>()?;
        Ok((Node { pooler: pooler?, postgres: primary }, replicas))
    })
}

fn start_replica(site: &Site, number: usize, primary_port: u16) -> Result<Node> {
    let follows = Follows::Primary { port: primary_port, slot: &slot(number) };
    let postgres = Postgres::start(site, &postgres_name(number), Port::free()?, follows)?;
    let pooler = start_pooler(site, number, postgres.port())?;
    Ok(Node { pooler, postgres })
}

fn start_pooler(site: &Site, number: usize, postgres_port: u16) -> Result<PgBouncer> {
    PgBouncer::start(site, &pooler_name(number), Port::free()?, postgres_port)
}

fn slot(number: usize) -> String {
    postgres_name(number).replace('-', "_")
}
