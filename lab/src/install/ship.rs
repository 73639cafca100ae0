//! The tools that check what is shipped: two programs of Python in an environment of their own, `promtool` and
//! `kubectl` out of their packages, or a `kustomize` instead, and `systemd-analyze` where systemd is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{apt, find, pgbouncer};
use crate::account::is_root;
use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::progress::{Progress, Step};
use crate::run::run_logged;

/// What is asked of Python's package index. Pinned: a new policy is to be met by a change, not by surprise.
const PYTHON_PACKAGES: [&str; 2] = ["checkov==3.3.30", "kubernetes-validate==1.37.0"];
/// Not the latest, which wants a newer Go than most have.
const KUSTOMIZE: &str = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1";

/// A tool, or why it is not to be had on this machine.
pub(crate) type Found<T, E = String> = std::result::Result<T, E>;

/// Where they are.
#[derive(Debug)]
pub struct ShipTools {
    pub(crate) promtool: Found<PathBuf>,
    pub(crate) python: Found<PythonTools>,
    pub(crate) kustomize: Found<Kustomize>,
    pub(crate) systemd_analyze: Found<PathBuf>,
}

/// What comes from Python's package index.
#[derive(Clone, Debug)]
pub(crate) struct PythonTools {
    pub(crate) checkov: PathBuf,
    pub(crate) kubernetes_validate: PathBuf,
}

/// Either builds overlays.
#[derive(Clone, Debug)]
pub(crate) enum Kustomize {
    Alone(PathBuf),
    OfKubectl(PathBuf),
}

impl ShipTools {
    /// The tools, installed into the lab's own directory where they are missing and can be had.
    pub fn find_or_install(progress: &Progress) -> Result<Self> {
        let dir = pgbouncer::cache_dir();
        Ok(Self {
            promtool: unless_interrupted(promtool(&dir, progress))?,
            python: unless_interrupted(python_tools(&dir, progress))?,
            kustomize: unless_interrupted(kustomize(&dir, progress))?,
            systemd_analyze: find::on_path("systemd-analyze")
                .ok_or_else(|| "there is no `systemd-analyze` on this machine".to_owned()),
        })
    }
}

impl Kustomize {
    /// Prints the manifests of the directory that is added.
    pub(crate) fn build(&self) -> Command {
        let (program, word) = match self {
            Self::Alone(program) => (program, "build"),
            Self::OfKubectl(program) => (program, "kustomize"),
        };
        let mut command = Command::new(program);
        command.arg(word);
        command
    }
}

/// What cannot be installed is missing, which is told; Ctrl-C ends everything.
fn unless_interrupted<T>(installed: Result<T>) -> Result<Found<T>> {
    match installed {
        Ok(tool) => Ok(Ok(tool)),
        Err(_) if interrupt::requested() => Err(Error::interrupted()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Debian 13 has a package of it alone, and before it was in that of the server.
fn promtool(dir: &Path, progress: &Progress) -> Result<PathBuf> {
    const PROGRAM: &str = "usr/bin/promtool";
    const PACKAGES: [&str; 2] = ["promtool", "prometheus"];
    let kept = PACKAGES.map(|package| dir.join(package).join(PROGRAM));
    let there = kept.into_iter().find(|kept| kept.is_file());
    if let Some(found) = find::on_path("promtool").or(there) {
        return Ok(found);
    }
    let from = |package| out_of_package(package, PROGRAM, dir, progress);
    from(PACKAGES[0]).or_else(|_| from(PACKAGES[1]))
}

/// Fetches the package and takes one program out of it: installed, it might start a server.
fn out_of_package(
    package: &'static str,
    program: &str,
    dir: &Path,
    progress: &Progress,
) -> Result<PathBuf> {
    let kept = dir.join(package).join(program);
    if kept.is_file() {
        return Ok(kept);
    }
    if apt::candidate(package)?.is_none() && is_root() {
        apt::update(progress)?;
    }
    if apt::candidate(package)?.is_none() {
        return Err(Error::new(format!("there is no package `{package}` for this machine")));
    }
    let step = progress.step(format!("Fetching the package {package}"));
    let draft = fresh(&dir.join(format!("{package}.draft")))?;
    let mut fetch = apt::apt_get();
    // As root apt would fetch as a user of its own, which may not write here.
    fetch.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(&draft);
    run_logged(&mut fetch, &step, &format!("fetch the package {package}"))?;
    let fetched = fs::read_dir(&draft).into_iter().flatten().flatten().map(|entry| entry.path());
    let fetched = fetched.last().ok_or_else(|| Error::new("apt fetched no package"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&fetched).arg(&draft);
    run_logged(&mut unpack, &step, &format!("unpack {package}"))?;
    if !draft.join(program).is_file() {
        return Err(Error::new(format!(
            "the package `{package}` of this machine has no {program}"
        )));
    }
    keep(&draft, &dir.join(package), &step)?;
    Ok(kept)
}

fn python_tools(dir: &Path, progress: &Progress) -> Result<PythonTools> {
    let made = dir.join(format!("python-{}", PYTHON_PACKAGES.join("-").replace("==", "-")));
    let bin = made.join("bin");
    let tools = PythonTools {
        checkov: bin.join("checkov"),
        kubernetes_validate: bin.join("kubernetes-validate"),
    };
    if bin.join("complete").is_file() {
        return Ok(tools);
    }
    make_environment(&made, progress)?;
    let step = progress.step("Installing checkov and kubernetes-validate");
    let mut install = Command::new(bin.join("pip"));
    install.args(["install", "--disable-pip-version-check", "--no-input"]).args(PYTHON_PACKAGES);
    run_logged(&mut install, &step, "install checkov and kubernetes-validate")?;
    fs::write(bin.join("complete"), "")
        .cannot(|| format!("mark {} as complete", made.display()))?;
    step.done();
    Ok(tools)
}

/// Programs in it begin with its path, so it is made where it stays. Debian has what makes it in a package of its own.
fn make_environment(made: &Path, progress: &Progress) -> Result<()> {
    let what = "make an environment for Python";
    let make = || -> Result<()> {
        fresh(made)?;
        let step = progress.step("Making an environment for Python");
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(made);
        run_logged(&mut make, &step, what)?;
        step.done();
        Ok(())
    };
    let Err(error) = make() else { return Ok(()) };
    if !is_root() || interrupt::requested() {
        return Err(error.way_out("sudo apt-get install --no-install-recommends python3-venv"));
    }
    apt::install(&["python3-venv"], progress)?;
    make()
}

fn kustomize(dir: &Path, progress: &Progress) -> Result<Kustomize> {
    if let Some(kubectl) = find::on_path("kubectl") {
        return Ok(Kustomize::OfKubectl(kubectl));
    }
    let kept = dir.join("kustomize");
    if let Some(alone) = find::on_path("kustomize").or_else(|| kept.is_file().then(|| kept.clone()))
    {
        return Ok(Kustomize::Alone(alone));
    }
    let no_package = match out_of_package("kubectl", "usr/bin/kubectl", dir, progress) {
        Ok(kubectl) => return Ok(Kustomize::OfKubectl(kubectl)),
        Err(error) => error,
    };
    let go = find::on_path("go").or_else(|| {
        let usual = PathBuf::from("/usr/local/go/bin/go");
        usual.is_file().then_some(usual)
    });
    let go = go.ok_or_else(|| {
        Error::new(format!(
            "neither `kubectl` nor `kustomize` is there, nor Go to build one, and {no_package}"
        ))
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
    if dir.exists() {
        fs::remove_dir_all(dir).cannot(|| format!("remove {}", dir.display()))?;
    }
    fs::rename(draft, dir).cannot(|| format!("keep {}", dir.display()))?;
    step.done();
    Ok(())
}
