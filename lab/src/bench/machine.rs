//! What the figures were measured on and with: without it they mean nothing elsewhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::cores::Cores;
use crate::install::Binaries;
use crate::run::output_of;
use crate::site::repository;

/// The machine and the programs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) date: String,
    pub(super) processor: String,
    pub(super) cores: Cores,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    /// The revision of the sources, if they are under git.
    pub(super) revision: Option<String>,
    /// Names and versions of the programs that took part.
    pub(super) programs: Vec<(&'static str, String)>,
}

impl Machine {
    pub(super) fn describe(cores: &Cores, binaries: &Binaries, wrk: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kilobytes: u64 = field(&meminfo, "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or_default();
        let programs = [
            ("Postgres", version(&binaries.postgres_dir.join("postgres"), "--version")),
            ("PgBouncer", version(&binaries.pgbouncer, "--version")),
            ("Redis", version(&binaries.redis_server, "--version")),
            ("wrk", version(wrk, "--version")),
        ];
        Self {
            date: now(),
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: cores.clone(),
            memory_mib: kilobytes / 1024,
            kernel: kernel.trim().to_owned(),
            revision: revision(),
            programs: programs.into_iter().filter_map(|(name, v)| Some((name, v?))).collect(),
        }
    }
}

/// To the second, in UTC.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// The first word with a dot between digits that a program tells of itself. `wrk` ends with an error then.
fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    version_in(&String::from_utf8_lossy(&text))
}

fn version_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '=' || c == '/');
    let is_version =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    words.into_iter().find(is_version).map(str::to_owned)
}

fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=8"]).current_dir(repository());
    output_of(&mut git, "", "ask git for the revision").ok()
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn every_program_tells_its_version_in_its_own_way() {
        for (text, version) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
            ("PgBouncer 1.24.1\nlibevent 2.1.12-stable", "1.24.1"),
            ("Redis server v=7.0.15 sha=00000000:0", "7.0.15"),
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0-3+b2"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("no such option"), None);
    }
}
