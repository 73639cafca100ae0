//! `cargo lab ship-check`: what is shipped beside the program, checked by the tools of those who will read it.

use crate::error::Result;
use crate::install::{Found, ShipTools};
use crate::interrupt;
use crate::progress::Progress;
use crate::ship;

/// Installs the tools that are missing, and runs them over rules, images, manifests and units. What has no tool on this
/// machine is told, and does not fail.
pub fn run() -> Result<()> {
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
    Ok(())
}

struct Tally<'a> {
    progress: &'a Progress,
    passed: usize,
    skipped: Vec<String>,
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
                self.skipped.push(what.to_owned());
            }
        }
        Ok(())
    }

    fn print(&self) {
        println!("what is shipped: {} checks passed", self.passed);
        if !self.skipped.is_empty() {
            println!("skipped for want of their tools: {}", self.skipped.join(", "));
        }
    }
}
