//! The configuration of the process, read from the environment once.
//!
//! Each platform part and the domain declare what they need as a struct of their own; here those
//! are filled. Every setting is named, defaulted and explained in exactly one place: its call
//! in `declare.rs`. `.env.example` is printed from the same calls (`shoal env`).

mod declare;

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use ipnet::IpNet;
use secrecy::SecretString;

use self::declare::{
    declare_cache, declare_database, declare_direct_url, declare_jobs, declare_redis,
    declare_telemetry,
};
use crate::platform::{
    cache,
    concurrency::Bounds,
    db,
    env::{Env, Lookup, Variable},
    fleet,
    http::{layers, server},
    http_client, jobs, mail, passwords,
    rate_limit::Policy,
    redis, remote_api, sessions, storage, streams, telemetry, tokens, upkeep,
};

/// What `shoal serve` needs.
#[derive(Clone)]
pub struct Config {
    pub http: Http,
    pub database: db::Config,
    pub redis: redis::Config,
    pub cache: cache::Config,
    pub storage: storage::Config,
    pub uploads: Uploads,
    pub jobs: jobs::Config,
    pub upkeep: upkeep::Config,
    pub orders: Orders,
    pub streams: streams::Config,
    /// The payment provider, if there is one.
    pub payments: Option<remote_api::Config>,
    /// The mail server, if there is one.
    pub mail: Option<mail::Config>,
    pub webhooks: http_client::Config,
    pub fleet: fleet::Config,
    pub tokens: tokens::Config,
    pub sessions: sessions::Config,
    pub passwords: passwords::Config,
    pub limits: Limits,
}

#[derive(Clone)]
pub struct Http {
    pub host: IpAddr,
    pub port: u16,
    /// Where health and metrics are served instead of on the main port.
    pub ops_address: Option<std::net::SocketAddr>,
    pub trusted_proxies: Vec<IpNet>,
    pub concurrency: Bounds,
    pub layers: layers::Config,
    pub server: server::Config,
}

#[derive(Clone)]
pub struct Orders {
    /// An order that is not paid for this long is cancelled.
    pub payment_term: Duration,
}

#[derive(Clone)]
pub struct Uploads {
    /// Of one file.
    pub max_bytes: i64,
    /// Of one user: bytes and files.
    pub quota_bytes: i64,
    pub quota_files: i64,
    /// What serves the pictures of the bucket to everybody, if there is something. Without a
    /// slash at its end.
    pub cdn_url: Option<String>,
    /// Files that are looked at, or shrunk, at the same time.
    pub checks: usize,
}

#[derive(Clone)]
pub struct Limits {
    pub default: Policy,
    pub write: Policy,
    pub login_account: Policy,
    pub login_ip: Policy,
    /// The part of each quota that one replica grants by itself while Redis is away.
    pub local_share: f64,
}

/// The mistakes made in the environment, as one text for the person who made them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistakes(String);

impl Mistakes {
    /// Everything that several readers found, as one error.
    ///
    /// # Errors
    /// If any of them found something.
    pub fn join(found: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let texts: Vec<String> = found.into_iter().filter_map(Result::err).map(|m| m.0).collect();
        if texts.is_empty() { Ok(()) } else { Err(Self(texts.join("\n"))) }
    }
}

impl Config {
    /// # Errors
    /// Every mistake at once.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, Mistakes> {
        read(lookup, Self::declare)
    }
}

/// How to log: read before anything else, and by every subcommand.
///
/// # Errors
/// Every mistake at once.
pub fn read_telemetry(lookup: Lookup<'_>) -> Result<telemetry::Config, Mistakes> {
    read(lookup, declare_telemetry)
}

/// For subcommands that need the database only.
///
/// # Errors
/// Every mistake at once.
pub fn read_database(lookup: Lookup<'_>) -> Result<db::Config, Mistakes> {
    read(lookup, declare_database)
}

/// For subcommands that write what is cached.
///
/// # Errors
/// Every mistake at once.
pub fn read_stores(
    lookup: Lookup<'_>,
) -> Result<(db::Config, redis::Config, cache::Config), Mistakes> {
    read(lookup, |env| {
        let (database, redis) = (declare_database(env), declare_redis(env));
        let cache = declare_cache(env);
        Some((database?, redis?, cache?))
    })
}

/// For workers that run jobs of their own.
///
/// # Errors
/// Every mistake at once.
pub fn read_jobs(lookup: Lookup<'_>) -> Result<jobs::Config, Mistakes> {
    read(lookup, declare_jobs)
}

/// For `shoal migrate`.
///
/// # Errors
/// Every mistake at once.
pub fn read_direct_url(lookup: Lookup<'_>) -> Result<SecretString, Mistakes> {
    read(lookup, declare_direct_url)
}

fn read<T>(
    lookup: Lookup<'_>,
    declare: impl FnOnce(&mut Env<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    let mut env = Env::new(lookup);
    let value = declare(&mut env);
    env.finish(value).map_err(Mistakes)
}

/// Every variable there is.
pub fn variables() -> Vec<Variable> {
    let nothing = |_: &str| None;
    let mut env = Env::new(&nothing);
    Config::declare(&mut env);
    declare_direct_url(&mut env);
    declare_telemetry(&mut env);
    env.variables().to_vec()
}

/// `.env.example`: every variable with its meaning and default.
pub fn example() -> String {
    let mut text = String::from(
        "# Every setting of Shoal. Any NAME can be given as NAME_FILE, a path to read it from.\n\
         # Printed by `shoal env`.\n",
    );
    for variable in variables() {
        let default = variable.default.unwrap_or_default();
        let mark = if variable.required { "" } else { "#" };
        let note = if variable.required { " (required)" } else { "" };
        let name = variable.name;
        let _ = write!(text, "\n# {}{note}\n{mark}{name}={default}\n", variable.meaning);
    }
    text
}

/// The environment of the process, for [`Lookup`].
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Refuses `SHOAL_*` variables that nothing reads: most likely a misspelt one.
///
/// # Errors
/// Names them.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn refuse_unknown_names() -> Result<(), Mistakes> {
    let names: Vec<String> =
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    unknown_names(names.iter().map(String::as_str))
}

fn unknown_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Mistakes> {
    let known = variables();
    let is_known = |name: &str| {
        let name = name.strip_suffix("_FILE").unwrap_or(name);
        known.iter().any(|variable| variable.name == name)
    };
    let unknown: Vec<&str> =
        names.filter(|name| name.starts_with("SHOAL_") && !is_known(name)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Mistakes(format!(
        "unknown in the environment: {}; `shoal env` lists every name",
        unknown.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_lists_what_the_code_reads() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example");
        let committed = std::fs::read_to_string(file).unwrap_or_default();
        assert!(committed == example(), "renew it: cargo run -- env > .env.example");
    }

    #[test]
    fn the_readme_names_what_the_code_reads() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(file).unwrap();
        for variable in variables() {
            assert!(readme.contains(&format!("| `{}` |", variable.name)), "{}", variable.name);
        }
    }

    #[test]
    fn refuses_misspelt_names_only() {
        let names = ["SHOAL_LOG_FORMAT", "SHOAL_REDIS_PREFIX_FILE", "PATH"];
        assert!(unknown_names(names.into_iter()).is_ok());
        let error = unknown_names(["SHOAL_LOGFORMAT"].into_iter()).unwrap_err();
        assert!(error.to_string().contains("SHOAL_LOGFORMAT"));
    }

    #[test]
    fn times_that_nothing_works_with_are_told_all_at_once() {
        let lookup = |name: &str| match name {
            "SHOAL_JOB_LEASE_MS" | "SHOAL_JOB_POLL_MS" => Some("0".to_owned()),
            // As long as the job that waits for it.
            "SHOAL_WEBHOOK_TIMEOUT_MS" | "SHOAL_PAYMENTS_TIMEOUT_MS" => Some("60000".to_owned()),
            _ => None,
        };
        let error = Config::read(&lookup).err().unwrap().to_string();
        for told in [
            "SHOAL_JOB_LEASE_MS: `0` is not a whole number of milliseconds from 500 to 3600000",
            "SHOAL_JOB_POLL_MS: `0` is not a whole number of milliseconds from 10 to 30000",
            "SHOAL_WEBHOOK_TIMEOUT_MS: `60000` is not",
            "SHOAL_PAYMENTS_TIMEOUT_MS: `60000` is not",
        ] {
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        let lookup =
            |name: &str| (name == "DATABASE_URL").then(|| "mysql://a:hunter2@b/c".to_owned());
        let error = read_database(&lookup).err().unwrap().to_string();
        assert!(error.contains("DATABASE_URL"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
