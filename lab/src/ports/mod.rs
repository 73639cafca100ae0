//! Which port a server gets: a fixed one in `up`, a free one in `test`.

mod holder;

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use rand::RngExt;

use crate::error::{Context, Error, Result};

/// The ports of `cargo lab up`, out of the way of a developer's own servers on the usual ones.
pub mod fixed {
    /// Postgres: the primary here, replica N at this plus N.
    pub const POSTGRES: u16 = 15432;
    /// PgBouncer: the primary's here, that of replica N at this plus N.
    pub const PGBOUNCER: u16 = 16432;
    /// Redis; node N of a cluster at this plus N - 1.
    pub const REDIS: u16 = 16379;
    /// Where the nodes of a Redis Cluster meet.
    pub const REDIS_BUS: u16 = 17379;
    /// The S3 server.
    pub const S3: u16 = 19000;
    /// The API: replica N at this plus N, beginning with 1.
    pub const API: u16 = 3000;
    /// The worker's health and metrics.
    pub const WORKER: u16 = 3100;
    /// The payment provider.
    pub const PROVIDER: u16 = 19_100;
    /// The mail server.
    pub const MAIL: u16 = 11_025;
    /// nginx, unless `--port` says otherwise.
    pub const NGINX: u16 = 8080;
    /// With `--faults`, the proxy before a server: at the server's port plus this.
    pub const FAULTS: u16 = 10_000;
}

/// Free ports are drawn from below the kernel's range for outgoing connections (32768 and up), where
/// any connection could take one between its choice and its use.
const FREE: std::ops::Range<u16> = 20_000..32_000;

/// A port that is this process's for as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: Option<File>,
}

impl Port {
    /// A certain port, for `server`; an error that says who has it if it is taken.
    pub fn fixed(number: u16, server: &str) -> Result<Self> {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
            Ok(_) => Ok(Self { number, _reservation: None }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                Err(in_use(number, server, holder::of(number)))
            }
            Err(error) => {
                Err(Error::new(format!("cannot listen on port {number} for {server}: {error}")))
            }
        }
    }

    /// A free port, not given to any other lab or test of this user.
    pub fn free() -> Result<Self> {
        let dir = reservations()?;
        let mut rng = rand::rng();
        for _ in 0..1_000 {
            let number = rng.random_range(FREE);
            let path = dir.join(number.to_string());
            let reservation =
                File::create(&path).cannot(|| format!("reserve a port in {}", dir.display()))?;
            match reservation.try_lock() {
                Ok(()) if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() => {
                    return Ok(Self { number, _reservation: Some(reservation) });
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).cannot(|| format!("lock {}", path.display()));
                }
            }
        }
        Err(Error::new(format!("no free port between {} and {}", FREE.start, FREE.end))
            .way_out("stop some servers on this machine"))
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// One directory per user: a lock file of another user's could not be opened.
fn reservations() -> Result<PathBuf> {
    let dir = std::env::temp_dir()
        .join(format!("shoal-lab-ports-{}", rustix::process::geteuid().as_raw()));
    fs::create_dir_all(&dir).cannot(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn in_use(number: u16, server: &str, holder: Option<(u32, String)>) -> Error {
    let (who, way_out) = match holder {
        Some((pid, command)) => {
            (format!("process {pid} (`{command}`)"), format!("stop process {pid}"))
        }
        None => (
            "another process".to_owned(),
            format!("find it with `ss -ltnp 'sport = :{number}'` and stop it"),
        ),
    };
    let error = Error::new(format!("port {number}, which {server} needs, is in use by {who}"));
    match server {
        "nginx" => error.way_out(format!("{way_out}, or choose another port with --port")),
        _ => error.way_out(way_out),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::{Port, in_use};

    #[test]
    fn a_taken_port_names_who_wants_it_and_who_has_it() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free");
        let number = taken.local_addr().expect("it is bound").port();
        let message = Port::fixed(number, "redis").expect_err("it is taken").to_string();
        let own = std::process::id().to_string();
        for part in [number.to_string().as_str(), "redis", own.as_str()] {
            assert!(message.contains(part), "{part:?} is missing in: {message}");
        }
    }

    #[test]
    fn an_unknown_holder_still_leaves_a_way_out() {
        assert!(in_use(8080, "nginx", None).to_string().contains("--port"));
        assert!(in_use(15432, "postgres", None).to_string().contains("sport = :15432"));
    }

    #[test]
    fn free_ports_are_given_once() {
        let ports: Vec<Port> =
            (0..50).map(|_| Port::free().expect("there are thousands")).collect();
        let numbers: std::collections::BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
