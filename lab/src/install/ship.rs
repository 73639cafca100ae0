//! The tools that check what is shipped: two programs of Python in an environment of their own, `promtool` out of
//! its package without Prometheus, and `kubectl` or `kustomize`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{apt, find, pgbouncer};
use crate::account::is_root;
use crate::error::{Context, Error, Result};
use crate::progress::{Progress, Step};
use crate::run::run_logged;

/// What is asked of Python's package index. Pinned: a new policy is to be met by a change, not by surprise.
const PYTHON_PACKAGES: [&str; 2] = ["checkov==3.3.30", "kubernetes-validate==1.37.0"];
/// Not the latest, which wants a newer Go than most have.
const KUSTOMIZE: &str = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1";

/// Where they are.
#[derive(Clone, Debug)]
pub struct ShipTools {
    pub(crate) promtool: PathBuf,
    pub(crate) checkov: PathBuf,
    pub(crate) kubernetes_validate: PathBuf,
    kustomize: Kustomize,
}

/// Either builds overlays.
#[derive(Clone, Debug)]
enum Kustomize {
    Alone(PathBuf),
    OfKubectl(PathBuf),
}

impl ShipTools {
    /// The tools, installed into the lab's own directory where they are missing.
    pub fn find_or_install(progress: &Progress) -> Result<Self> {
        let dir = pgbouncer::cache_dir();
        let promtool = promtool(&dir, progress)?;
        let python = python_tools(&dir, progress)?;
        Ok(Self {
            promtool,
            checkov: python.join("checkov"),
            kubernetes_validate: python.join("kubernetes-validate"),
            kustomize: kustomize(&dir, progress)?,
        })
    }

    /// Prints the manifests of the directory that is added.
    pub(crate) fn kustomize(&self) -> Command {
        let (program, word) = match &self.kustomize {
            Kustomize::Alone(program) => (program, "build"),
            Kustomize::OfKubectl(program) => (program, "kustomize"),
        };
        let mut command = Command::new(program);
        command.arg(word);
        command
    }
}

/// Fetches the package and takes the one program out of it: installed, it would start a server.
fn promtool(dir: &Path, progress: &Progress) -> Result<PathBuf> {
    let kept = dir.join("prometheus/usr/bin/promtool");
    if let Some(found) = find::on_path("promtool").or_else(|| kept.is_file().then(|| kept.clone()))
    {
        return Ok(found);
    }
    if apt::candidate("prometheus")?.is_none() && is_root() {
        apt::update(progress)?;
    }
    let step = progress.step("Fetching promtool");
    let draft = fresh(&dir.join("prometheus.draft"))?;
    let mut fetch = apt::apt_get();
    // As root apt would fetch as a user of its own, which may not write here.
    fetch.args(["-o", "APT::Sandbox::User=root", "download", "prometheus"]).current_dir(&draft);
    run_logged(&mut fetch, &step, "fetch the package of Prometheus")?;
    let package = fs::read_dir(&draft).into_iter().flatten().flatten().map(|entry| entry.path());
    let package = package.last().ok_or_else(|| Error::new("apt fetched no package"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&package).arg(&draft);
    run_logged(&mut unpack, &step, "unpack promtool")?;
    keep(&draft, &dir.join("prometheus"), &step)?;
    Ok(kept)
}

/// The directory of the programs.
fn python_tools(dir: &Path, progress: &Progress) -> Result<PathBuf> {
    let made = dir.join(format!("python-{}", PYTHON_PACKAGES.join("-").replace("==", "-")));
    let bin = made.join("bin");
    if bin.join("complete").is_file() {
        return Ok(bin);
    }
    let step = progress.step("Installing checkov and kubernetes-validate");
    // Programs in it begin with its path, so it is made where it stays, and marked when it is complete.
    fresh(&made)?;
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&made);
    run_logged(&mut make, &step, "make an environment for Python").map_err(|error| {
        error.way_out("python3 with its venv is needed: apt-get install python3-venv").exit_code(2)
    })?;
    let mut install = Command::new(bin.join("pip"));
    install.args(["install", "--disable-pip-version-check", "--no-input"]).args(PYTHON_PACKAGES);
    run_logged(&mut install, &step, "install checkov and kubernetes-validate")?;
    fs::write(bin.join("complete"), "")
        .cannot(|| format!("mark {} as complete", made.display()))?;
    step.done();
    Ok(bin)
}

fn kustomize(dir: &Path, progress: &Progress) -> Result<Kustomize> {
    let kept = dir.join("kustomize");
    if let Some(kubectl) = find::on_path("kubectl") {
        return Ok(Kustomize::OfKubectl(kubectl));
    }
    if let Some(alone) = find::on_path("kustomize").or_else(|| kept.is_file().then(|| kept.clone()))
    {
        return Ok(Kustomize::Alone(alone));
    }
    let go = find::on_path("go").or_else(|| {
        let usual = PathBuf::from("/usr/local/go/bin/go");
        usual.is_file().then_some(usual)
    });
    let go = go.ok_or_else(|| {
        Error::new("neither `kubectl` nor `kustomize` is there, nor Go to build one")
            .way_out("get `kubectl` onto the PATH")
            .exit_code(2)
    })?;
    let step = progress.step("Building kustomize");
    let mut install = Command::new(go);
    install.args(["install", KUSTOMIZE]).env("GOBIN", dir);
    run_logged(&mut install, &step, "build kustomize")?;
    step.done();
    Ok(Kustomize::Alone(kept))
}

/// An empty directory.
fn fresh(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir).cannot(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).cannot(|| format!("create {}", dir.display()))?;
    Ok(dir.to_owned())
}

/// In one step, so that a half-made directory is never found.
fn keep(draft: &Path, dir: &Path, step: &Step) -> Result<()> {
    fs::rename(draft, dir).cannot(|| format!("keep {}", dir.display()))?;
    step.done();
    Ok(())
}
