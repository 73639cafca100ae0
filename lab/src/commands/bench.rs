//! `cargo lab bench`: what a request costs, side by side with what it would cost without the service around it.

use std::path::{Path, PathBuf};

use crate::bench::cores::Cores;
use crate::bench::report::Report;
use crate::bench::workloads::Workload;
use crate::bench::{Extent, Setting};
use crate::cargo;
use crate::error::{Error, Result};
use crate::install;
use crate::interrupt;
use crate::progress::Progress;
use crate::site::{Profile, Site};
use crate::state::{self, Lock};

/// The directory of the servers below the target directory.
const DIR: &str = "lab-bench";
/// Where the report goes below the target directory, unless the command line says otherwise.
const OUT: &str = "lab/bench";

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of each measurement.
    pub seconds: u64,
    /// How often each is repeated.
    pub rounds: u32,
    /// All if there are none.
    pub only: Vec<Workload>,
    /// Which programs are measured.
    pub programs: Programs,
    /// Where the report goes.
    pub out: Option<PathBuf>,
}

/// Which programs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Those of the sources as they are.
    Fresh,
    /// Those that were built last, with optimisations.
    AsBuilt,
}

/// Builds, starts, measures, stops, and tells.
pub fn run(options: &Options) -> Result<()> {
    interrupt::listen()?;
    let cores = Cores::choose()?;
    let progress = Progress::new();
    let (binaries, dir) = super::set_up(DIR, &progress)?;
    let wrk = install::find_or_install_wrk(&progress)?;
    let _lock = Lock::take(&dir)?.ok_or_else(|| already_running(&dir))?;
    // Kept until the next run where this one fails: the logs tell why.
    let site_dir = dir.join("site");
    state::stop_orphans(&site_dir, &progress);
    state::remove(&site_dir)?;
    if options.programs == Programs::Fresh {
        cargo::build_bench()?;
    }
    // After the build, which takes every core it gets.
    cores.keep_clear()?;

    let target = cargo::target_dir()?;
    let site = Site::new(&site_dir, binaries, Profile::Durable)?;
    let setting =
        Setting { site: &site, cores: &cores, programs: &target.join("release"), wrk: &wrk };
    let extent = Extent {
        seconds: options.seconds,
        rounds: options.rounds,
        workloads: chosen(&options.only),
    };
    let report = crate::bench::run(setting, &extent, &progress)?;
    if report.has_errors() {
        println!("\nThe servers' logs are kept until the next run: {}", site_dir.display());
    } else {
        state::remove(&site_dir)?;
    }
    tell(&report, &options.out.clone().unwrap_or_else(|| target.join(OUT)))
}

/// In the order in which they are declared, each once.
fn chosen(only: &[Workload]) -> Vec<Workload> {
    use clap::ValueEnum;
    let all = Workload::value_variants().iter().copied();
    all.filter(|workload| only.is_empty() || only.contains(workload)).collect()
}

fn tell(report: &Report, out: &Path) -> Result<()> {
    println!("\n{}", report.text());
    let written = report.write(out)?;
    written.iter().for_each(|path| println!("  {}", path.display()));
    Ok(())
}

fn already_running(dir: &Path) -> Error {
    let who =
        state::holder(dir).map_or_else(String::new, |holder| format!(" as process {}", holder.pid));
    Error::new(format!("a bench is already running{who}"))
        .way_out("two at a time would measure each other; wait for it")
}

#[cfg(test)]
mod tests {
    use super::{Workload, chosen};

    #[test]
    fn all_are_chosen_unless_some_are() {
        assert_eq!(chosen(&[]).len(), 11);
        let some = [Workload::Cold, Workload::Product, Workload::Cold];
        assert_eq!(chosen(&some), [Workload::Product, Workload::Cold]);
    }
}
