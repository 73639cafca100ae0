//! `shoal plan`: from what one replica was measured to carry to the numbers of a whole installation.
//!
//! `measured` reads the figures, `numbers` does the arithmetic, `table` says how each number came about, and
//! `fragments` writes them in the form of the files that are shipped.

mod fragments;
mod measured;
mod numbers;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::{
    measured::Measured,
    numbers::{Numbers, Wanted},
};
use super::print;
use crate::domain;

/// The queue whose jobs wait for somebody else's service: workers are counted by it.
const CHARGES: &str = "payments";

#[derive(Args)]
pub(super) struct Plan {
    /// Requests per second at the peak, of the mix that was measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rps: u32,
    /// Milliseconds within which 99 of 100 are to be answered
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    p99: u32,
    /// Figures of one's own: bench.json, as `cargo lab bench --only knee` writes it
    #[arg(long)]
    bench: Option<PathBuf>,
    /// Thousandths of a core that a replica is sure of: what its pod requests
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(50..=1000))]
    millicores: u32,
    /// Milliseconds that the payment provider takes for a charge
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    charge_ms: u32,
    /// Connections that one Postgres may have, at most
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..))]
    most_connections: u32,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write kustomization.yaml, pgbouncer.ini and postgresql.conf into this directory as well
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Each number, and how it came about
    Table,
    /// A component of kustomize, for an overlay
    Yaml,
    /// What is in pgbouncer.ini and in postgresql.conf
    Ini,
}

impl Plan {
    /// # Errors
    /// Figures that cannot be read, or wishes that they say are impossible.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let measured = match &self.bench {
            Some(file) => Measured::read(file)?,
            None => Measured::shipped()?,
        };
        let wanted = Wanted {
            per_second: f64::from(self.rps),
            p99_ms: f64::from(self.p99),
            cores: f64::from(self.millicores) / 1000.0,
            charge_seconds: f64::from(self.charge_ms) / 1000.0,
            charges_per_worker: charges_per_worker()?,
            most_connections: self.most_connections,
        };
        let numbers = Numbers::of(&wanted, &measured.knee)?;
        if let Some(directory) = &self.out {
            write(directory, &numbers)?;
        }
        print(&match self.format {
            Format::Table => table::render(&numbers, &measured),
            Format::Yaml => fragments::kustomization(&numbers),
            Format::Ini => {
                format!("{}\n{}", fragments::pgbouncer(&numbers), fragments::postgres(&numbers))
            }
        })
    }
}

/// How many jobs of [`CHARGES`] one worker runs at a time.
fn charges_per_worker() -> anyhow::Result<u32> {
    let work = domain::work();
    let queue = work.queues().find(|queue| queue.name == CHARGES);
    let queue = queue.with_context(|| format!("there is no queue {CHARGES}"))?;
    Ok(u32::try_from(queue.concurrency)?)
}

fn write(directory: &Path, numbers: &Numbers) -> anyhow::Result<()> {
    let files = [
        ("kustomization.yaml", fragments::kustomization(numbers)),
        ("pgbouncer.ini", fragments::pgbouncer(numbers)),
        ("postgresql.conf", fragments::postgres(numbers)),
    ];
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    for (name, text) in files {
        let file = directory.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
