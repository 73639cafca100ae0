//! Installs Debian packages without letting their servers start or a default database be made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::run::run_logged;

/// Debian asks this program before a package starts its server; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Temporary, written by Shoal's lab: packages it installs must not start their servers.\nexit 101\n";
/// Postgres's package makes and starts a cluster of its own unless told not to.
const CLUSTER_DIR: &str = "/etc/postgresql-common/createcluster.d";
const CLUSTER_TEXT: &str = "create_main_cluster = false\n";

/// Installs the packages. Only for root.
pub(super) fn install(packages: &[&str], progress: &Progress) -> Result<()> {
    update(progress)?;
    let step = progress.step(format!("Installing {}", packages.join(", ")));
    let _policy = TemporaryFile::policy()?;
    let _cluster = packages.contains(&"postgresql").then(TemporaryFile::cluster).transpose()?;
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    run_logged(&mut command, &step, "install packages").map_err(|error| error.exit_code(2))?;
    step.done();
    Ok(())
}

/// Fetches the lists of packages: a fresh machine has none.
pub(super) fn update(progress: &Progress) -> Result<()> {
    let step = progress.step("Fetching the lists of packages");
    run_logged(apt_get().arg("update"), &step, "fetch the lists of packages")
        .map_err(|error| error.exit_code(2))?;
    step.done();
    Ok(())
}

/// `apt-get`, asking nothing, and waiting for another apt on this machine to finish.
pub(super) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// A file that is there only while packages are installed, with the directories made for it.
struct TemporaryFile {
    file: PathBuf,
    made_dirs: Vec<PathBuf>,
}

impl TemporaryFile {
    /// `None` if the machine has a policy of its own, as container images do. One that a killed lab left
    /// is ours to remove.
    fn policy() -> Result<Option<Self>> {
        match fs::read_to_string(POLICY) {
            Ok(text) if text != POLICY_TEXT => Ok(None),
            _ => Self::create(POLICY.as_ref(), POLICY_TEXT, 0o755).map(Some),
        }
    }

    fn cluster() -> Result<Self> {
        Self::create(&Path::new(CLUSTER_DIR).join("shoal-lab.conf"), CLUSTER_TEXT, 0o644)
    }

    fn create(file: &Path, text: &str, mode: u32) -> Result<Self> {
        let made_dirs =
            file.ancestors().skip(1).take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
        let created = Self { file: file.to_owned(), made_dirs };
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).cannot(|| format!("create {}", dir.display()))?;
        }
        fs::write(file, text).cannot(|| format!("write {}", file.display()))?;
        fs::set_permissions(file, fs::Permissions::from_mode(mode))
            .cannot(|| format!("make {} executable", file.display()))?;
        Ok(created)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
        // Directories that a package uses by now are not empty, and stay.
        for dir in &self.made_dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The version that apt would install, as far as the lists on this machine tell.
pub(super) fn candidate(package: &str) -> Result<Option<String>> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    let output = output.map_err(|error| {
        Error::new(format!("cannot run apt-cache: {error}"))
            .way_out("the lab installs packages on Debian and Ubuntu; elsewhere install Postgres ≥ 15, PgBouncer ≥ 1.21, Redis and nginx yourself")
            .exit_code(2)
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::TemporaryFile;

    #[test]
    fn a_temporary_file_leaves_no_trace() {
        let root = std::env::temp_dir().join(format!("lab-apt-{}", std::process::id()));
        let file = root.join("a/b/file");
        let temporary = TemporaryFile::create(&file, "text", 0o644).expect("it can be created");
        assert!(file.is_file());
        drop(temporary);
        assert!(!root.exists(), "{} is still there", root.display());
    }
}
