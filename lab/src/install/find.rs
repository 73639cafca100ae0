//! Looks for the servers' real binaries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Binaries, Tool, pgbouncer};

/// `roles.sql` reads passwords with psql's `\getenv`, which came with 15.
const OLDEST_POSTGRES: u32 = 15;
/// Debian keeps servers in `sbin`, which an ordinary user's PATH lacks.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The servers of this machine, or which of them are missing.
pub fn find() -> Result<Binaries, Vec<Tool>> {
    let postgres_dir = postgres_dir();
    let pgbouncer = pgbouncer::find();
    let redis_server = on_path("redis-server");
    let nginx = on_path("nginx");
    match (postgres_dir, pgbouncer, redis_server, nginx) {
        (Some(postgres_dir), Some(pgbouncer), Some(redis_server), Some(nginx)) => {
            Ok(Binaries { postgres_dir, pgbouncer, redis_server, nginx })
        }
        (postgres_dir, pgbouncer, redis_server, nginx) => {
            let found = [
                (Tool::Postgres, postgres_dir.is_some()),
                (Tool::PgBouncer, pgbouncer.is_some()),
                (Tool::Redis, redis_server.is_some()),
                (Tool::Nginx, nginx.is_some()),
            ];
            Err(found.into_iter().filter(|(_, is_there)| !is_there).map(|(tool, _)| tool).collect())
        }
    }
}

/// A program on the PATH or in a system directory.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The newest Postgres: Debian keeps each version's binaries in a directory of its own, other systems
/// where `pg_config` says. All of them have to be there: a lone `psql` is only a client.
fn postgres_dir() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut candidates: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    candidates.extend(pg_config_dir());
    let usable = candidates.into_iter().filter(|dir| {
        ["postgres", "initdb", "psql", "pg_basebackup"]
            .iter()
            .all(|program| dir.join(program).is_file())
    });
    usable
        .filter_map(|dir| Some((postgres_major(&dir)?, dir)))
        .filter(|(major, _)| *major >= OLDEST_POSTGRES)
        .max()
        .map(|(_, dir)| dir)
}

fn pg_config_dir() -> Option<PathBuf> {
    let output = Command::new(on_path("pg_config")?).arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// The major version of the Postgres in `dir`.
pub(crate) fn postgres_major(dir: &Path) -> Option<u32> {
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    major_version(&String::from_utf8(output.stdout).ok()?)
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, or `... 17beta1`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn the_major_version_is_read_off_any_build() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 17beta1"), Some(17));
        assert_eq!(major_version("no such thing"), None);
    }
}
