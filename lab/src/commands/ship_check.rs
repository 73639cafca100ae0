//! `cargo lab ship-check`: what is shipped beside the program, checked by the tools of those who will read it.

use crate::error::{Error, Result};
use crate::install::{Found, ShipTools};
use crate::interrupt;
use crate::progress::Progress;
use crate::ship;

/// What becomes of a check whose tool is not to be had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is told, and passed over.
    Skipped,
    /// It fails, at the end, with all the reasons.
    Fails,
}

/// Installs the tools that are missing, and runs them over rules, images, manifests and units.
pub fn run(missing: Missing) -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new();
    let tools = ShipTools::find_or_install(&progress)?;
    let (promtool, python) = (&tools.promtool, &tools.python);
    let mut tally = Tally { progress: &progress, passed: 0, skipped: Vec::new(), reason: None };
    tally.check("rules", promtool.as_ref(), |tool| ship::rules(tool, &progress))?;
    tally.check("dashboards", promtool.as_ref(), |tool| ship::dashboards(tool, &progress))?;
    tally.check("images", python.as_ref(), |tool| ship::images(tool, &progress))?;
    for overlay in ship::overlays()? {
        let both = tools.kustomize.as_ref().and_then(|one| Ok((one, python.as_ref()?)));
        tally.check(&format!("overlay {overlay}"), both, |(kustomize, python)| {
            ship::overlay(kustomize, python, &overlay, &progress)
        })?;
    }
    tally.check("units", tools.systemd_analyze.as_ref(), |tool| ship::units(tool, &progress))?;
    tally.print();
    tally.verdict(missing)
}

struct Tally<'a> {
    progress: &'a Progress,
    passed: usize,
    /// What, and why.
    skipped: Vec<(String, String)>,
    /// Why the last one was skipped.
    reason: Option<String>,
}

impl Tally<'_> {
    /// Runs a check with its tool, or says why not.
    fn check<T>(
        &mut self,
        what: &str,
        tool: Found<T, &String>,
        check: impl FnOnce(T) -> Result<()>,
    ) -> Result<()> {
        match tool {
            Ok(tool) => {
                check(tool)?;
                self.passed += 1;
            }
            Err(why) => {
                let told = self.reason.replace(why.clone());
                let why = if told.as_ref() == Some(why) { "for the same reason" } else { why };
                self.progress.say(&format!("Skipped: {what}: {why}"));
                self.skipped.push((what.to_owned(), why.to_owned()));
            }
        }
        Ok(())
    }

    fn print(&self) {
        println!("what is shipped: {} checks passed", self.passed);
        if !self.skipped.is_empty() {
            let skipped: Vec<_> = self.skipped.iter().map(|(what, _)| &**what).collect();
            println!("skipped for want of their tools: {}", skipped.join(", "));
        }
    }

    /// Whether that will do.
    fn verdict(&self, missing: Missing) -> Result<()> {
        if missing == Missing::Skipped || self.skipped.is_empty() {
            return Ok(());
        }
        let skipped: Vec<_> =
            self.skipped.iter().map(|(what, why)| format!("\n  {what}: {why}")).collect();
        Err(Error::new(format!("some tools are missing:{}", skipped.concat()))
            .way_out("install them, or run it without --all")
            .exit_code(2))
    }
}
