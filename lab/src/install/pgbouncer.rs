//! PgBouncer 1.21 or newer: the first that keeps prepared statements apart in transaction pooling.
//!
//! Debian 12 packages 1.18, which gives sqlx errors and wrong results, so there the source package of
//! Debian 13 is built. The binary is kept per user: other clones need not build it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt;
use super::deb_source::entry_for;
use super::find::on_path;
use crate::error::{Context, Error, Result};
use crate::progress::{Progress, Step};
use crate::run::run_logged;

const OLDEST: (u32, u32) = (1, 21);
/// The oldest Debian release whose package is new enough.
const SUITE: &str = "trixie";
/// Not in root's home, where the account that the servers run under cannot reach it.
const CACHE_OF_ROOT: &str = "/var/cache/shoal-lab";
const BUILD_PACKAGES: [&str; 5] = ["libevent-dev", "libssl-dev", "pkg-config", "make", "gcc"];

/// A PgBouncer that is new enough: built here before, by this user or by root, or the system's.
pub(super) fn find() -> Option<PathBuf> {
    let kept = [cache_dir(), PathBuf::from(CACHE_OF_ROOT)];
    let built = kept.iter().flat_map(|dir| files(dir)).map(|dir| dir.join("pgbouncer"));
    built
        .chain(on_path("pgbouncer"))
        .find(|binary| installed_version(binary).is_some_and(|version| version >= OLDEST))
}

/// Whether installing the package is enough.
pub(super) fn packaged_is_new_enough(progress: &Progress) -> Result<bool> {
    let mut candidate = apt::candidate("pgbouncer")?;
    if candidate.is_none() && crate::account::is_root() {
        apt::update(progress)?;
        candidate = apt::candidate("pgbouncer")?;
    }
    Ok(candidate
        .and_then(|version| parse_version(&version))
        .is_some_and(|version| version >= OLDEST))
}

/// The packages the build needs and dpkg does not know as installed.
pub(super) fn missing_build_packages() -> Vec<&'static str> {
    BUILD_PACKAGES.into_iter().filter(|package| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Fetches, builds and keeps it.
pub(super) fn build(progress: &Progress) -> Result<()> {
    let step = progress.step("Building PgBouncer (the packaged one is older than 1.21)");
    let work = cache_dir().join(format!("build-{}", std::process::id()));
    let result = build_in(&work, &step);
    let _ = fs::remove_dir_all(&work);
    if result.is_ok() {
        step.done();
    }
    result.map_err(|error| error.exit_code(2))
}

fn build_in(work: &Path, step: &Step) -> Result<()> {
    let tree = work.join("tree");
    for dir in [work.join("lists/partial"), work.join("cache/archives/partial"), tree.clone()] {
        fs::create_dir_all(&dir).cannot(|| format!("create {}", dir.display()))?;
    }
    let sources = work.join("trixie.sources");
    fs::write(&sources, source_entry()?).cannot(|| format!("write {}", sources.display()))?;

    step.say("fetching the list of sources");
    run_logged(private_apt(work).arg("update"), step, "fetch the list of Debian 13's sources")?;
    step.say("fetching the source");
    run_logged(
        private_apt(work).args(["source", "--download-only", "pgbouncer"]),
        step,
        "fetch PgBouncer's source",
    )?;

    let archive = files(work).find(|file| file.to_string_lossy().contains(".orig.tar"));
    let archive = archive.ok_or_else(|| {
        Error::new(format!("apt fetched no source archive into {}", work.display()))
    })?;
    let mut unpack = Command::new("tar");
    unpack
        .arg("--extract")
        .arg("--strip-components=1")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&tree);
    run_logged(&mut unpack, step, "unpack PgBouncer's source")?;

    step.say("configuring");
    let mut configure = Command::new("./configure");
    // The lab talks to addresses, so an asynchronous resolver is of no use; nor are PAM and systemd.
    configure.args(["--without-cares", "--without-pam", "--without-systemd"]).current_dir(&tree);
    run_logged(&mut configure, step, "configure PgBouncer")?;
    step.say("compiling");
    run_logged(
        Command::new("make").args(["-j2", "pgbouncer"]).current_dir(&tree),
        step,
        "compile PgBouncer",
    )?;
    keep(&tree.join("pgbouncer"))
}

/// apt with lists, cache and entries of its own: the machine's configuration stays as it is.
fn private_apt(work: &Path) -> Command {
    let mut command = apt::apt_get();
    let set = |name: &str, path: PathBuf| format!("{name}={}", path.display());
    for option in [
        set("Dir::Etc::sourcelist", work.join("trixie.sources")),
        "Dir::Etc::sourceparts=-".to_owned(),
        set("Dir::State::lists", work.join("lists")),
        set("Dir::Cache", work.join("cache")),
        // apt would fetch as a user of its own, which cannot write to a private directory.
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    command.current_dir(work);
    command
}

fn source_entry() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    let codename = field("VERSION_CODENAME").unwrap_or_default();
    let entry = (field("ID") == Some("debian")).then(|| entry_for(SUITE, codename)).flatten();
    entry.ok_or_else(|| {
        Error::new("PgBouncer 1.21 or newer is needed; this system's package is older, and no Debian package source was found to build Debian 13's from")
            .way_out("install PgBouncer ≥ 1.21 so that `pgbouncer` is on the PATH")
    })
}

/// Moves the binary to `pgbouncer-VERSION/` in one step, so that a half-written one is never found.
fn keep(binary: &Path) -> Result<()> {
    let (major, minor) = installed_version(binary)
        .ok_or_else(|| Error::new(format!("{} does not run", binary.display())))?;
    let dir = cache_dir().join(format!("pgbouncer-{major}.{minor}"));
    fs::create_dir_all(&dir).cannot(|| format!("create {}", dir.display()))?;
    fs::rename(binary, dir.join("pgbouncer"))
        .cannot(|| format!("keep PgBouncer in {}", dir.display()))
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// `$XDG_CACHE_HOME/shoal-lab` or `~/.cache/shoal-lab`.
pub(super) fn cache_dir() -> PathBuf {
    if crate::account::is_root() {
        return PathBuf::from(CACHE_OF_ROOT);
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("shoal-lab")
}

fn installed_version(binary: &Path) -> Option<(u32, u32)> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    parse_version(text.lines().next()?.strip_prefix("PgBouncer ")?)
}

/// Major and minor of `1.24.1-1+deb13u2`, or of `2:1.24` with an epoch.
fn parse_version(version: &str) -> Option<(u32, u32)> {
    let without_epoch = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = without_epoch.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, parse_version};

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("1.24.1-1+deb13u2"), Some((1, 24)));
        assert!(parse_version("1.18.0-1+deb12u1").is_some_and(|version| version < OLDEST));
        assert!(parse_version("1:1.21-1").is_some_and(|version| version >= OLDEST));
        assert!(parse_version("1.9.0").is_some_and(|version| version < OLDEST));
        assert_eq!(parse_version("unknown"), None);
    }
}
