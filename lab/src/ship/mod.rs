//! Checks of what is shipped: rules and dashboards by `promtool`, images by `checkov`, manifests by
//! `kubernetes-validate` and `checkov`, units by `systemd-analyze`.

mod panels;
mod units;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::target_dir;
use crate::error::{Context, Error, Result};
use crate::install::{Kustomize, PythonTools};
use crate::progress::Progress;
use crate::run::{output_of, run_logged};
use crate::site::{make_dir, repository};
pub(crate) use units::units;

/// The images that are built from the repository.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "pgbouncer/Dockerfile", "s3/Dockerfile"];

/// The rules are valid, and do what their tests say.
pub(crate) fn rules(tool: &Path, progress: &Progress) -> Result<()> {
    let prometheus = repository().join("monitoring/prometheus");
    let step = progress.step("Rules and their tests");
    let check = ["check", "config", "prometheus.yml"];
    run_logged(promtool(tool, &prometheus).args(check), &step, "accept the rules")?;
    let tests = files(&prometheus.join("tests"))?;
    run_logged(
        promtool(tool, &prometheus).args(["test", "rules"]).args(&tests),
        &step,
        "test the rules",
    )?;
    step.done();
    Ok(())
}

/// The panels' queries are valid.
pub(crate) fn dashboards(tool: &Path, progress: &Progress) -> Result<()> {
    let prometheus = repository().join("monitoring/prometheus");
    let step = progress.step("Queries of the dashboards");
    let dashboards = files(&repository().join("monitoring/grafana/dashboards"))?;
    let rules = panels::as_rules(&dashboards)?;
    let file = work_dir()?.join("panels.json");
    fs::write(&file, rules).cannot(|| format!("write {}", file.display()))?;
    run_logged(
        promtool(tool, &prometheus).args(["check", "rules"]).arg(&file),
        &step,
        "accept the queries of the dashboards",
    )?;
    step.done();
    Ok(())
}

/// The Dockerfiles keep to the policies of `.checkov.yaml`.
pub(crate) fn images(tools: &PythonTools, progress: &Progress) -> Result<()> {
    let step = progress.step("Policies of the images");
    let mut command = checkov(tools, "dockerfile");
    command.arg("--file").args(DOCKERFILES);
    run_logged(&mut command, &step, "accept the images")?;
    step.done();
    Ok(())
}

/// The names of the overlays.
pub(crate) fn overlays() -> Result<Vec<String>> {
    let dirs = files(&repository().join("k8s/overlays"))?;
    let names = dirs.iter().filter_map(|dir| dir.file_name()?.to_str().map(str::to_owned));
    Ok(names.collect())
}

/// What the overlay comes to is valid, and keeps to the policies of `.checkov.yaml`.
pub(crate) fn overlay(
    kustomize: &Kustomize,
    tools: &PythonTools,
    name: &str,
    progress: &Progress,
) -> Result<()> {
    let step = progress.step(format!("Overlay {name}"));
    let mut build = kustomize.build();
    build.arg(format!("k8s/overlays/{name}")).current_dir(repository());
    let manifests = output_of(&mut build, "", &format!("build the overlay {name}"))?;
    let file = work_dir()?.join(format!("{name}.yaml"));
    fs::write(&file, manifests).cannot(|| format!("write {}", file.display()))?;
    let mut validate = Command::new(&tools.kubernetes_validate);
    // Resources of others, such as the Prometheus operator's, have no schema there, which is a warning.
    validate.args(["--strict", "--quiet"]).arg(&file);
    run_logged(&mut validate, &step, &format!("accept the manifests of {name}"))?;
    let mut policies = checkov(tools, "kubernetes");
    policies.arg("--file").arg(&file);
    run_logged(&mut policies, &step, &format!("accept the policies of {name}"))?;
    step.done();
    Ok(())
}

fn promtool(tool: &Path, dir: &Path) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(dir);
    command
}

fn checkov(tools: &PythonTools, framework: &str) -> Command {
    let mut command = Command::new(&tools.checkov);
    command.args(["--config-file", ".checkov.yaml", "--framework", framework]);
    command.current_dir(repository());
    command
}

/// What is in a directory, in the order of its names.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).cannot(|| format!("read {}", dir.display()))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if found.is_empty() {
        return Err(Error::new(format!("{} is empty", dir.display())));
    }
    found.sort();
    Ok(found)
}

fn work_dir() -> Result<PathBuf> {
    let dir = target_dir()?.join("lab-ship");
    make_dir(&dir)?;
    Ok(dir)
}
