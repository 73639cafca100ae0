//! The configuration of the process, read from the environment once.
//!
//! Each platform part and the domain declare what they need as a struct of their own; here those
//! are filled. Every setting is named, defaulted and explained in exactly one place: its call
//! below. `.env.example` is printed from the same calls (`shoal env`).

use std::{fmt::Write as _, net::IpAddr};

use http::HeaderValue;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use crate::platform::{
    db,
    env::{Env, Lookup, Variable, flag, list, millis, parse, positive, secret, secs, text},
    http::{layers, server},
    passwords,
    rate_limit::{Policy, parse_policy},
    redis, sessions, storage,
    telemetry::{self, LogFormat},
    tokens,
};

/// What `shoal serve` needs.
#[derive(Clone)]
pub struct Config {
    pub http: Http,
    pub database: db::Config,
    pub redis: redis::Config,
    pub storage: storage::Config,
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
    pub layers: layers::Config,
    pub server: server::Config,
}

#[derive(Clone)]
pub struct Limits {
    pub default: Policy,
    pub login_account: Policy,
    pub login_ip: Policy,
    /// The part of each quota that one replica grants by itself while Redis is away.
    pub local_share: f64,
}

/// The mistakes made in the environment, as one text for the person who made them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistakes(String);

impl Config {
    /// # Errors
    /// Every mistake at once.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, Mistakes> {
        read(lookup, Self::declare)
    }

    fn declare(env: &mut Env<'_>) -> Option<Self> {
        let http = Http::declare(env);
        let database = declare_database(env);
        let redis = declare_redis(env);
        let storage = declare_storage(env);
        let tokens = declare_tokens(env);
        let idle = env.or_default("SHOAL_SESSION_IDLE_SECS", "604800",
            "a session that is not refreshed for this long ends", secs);
        let absolute = env.or_default("SHOAL_SESSION_ABSOLUTE_SECS", "2592000",
            "a session ends after this long, refreshed or not", secs);
        let parallel = env.or_default("SHOAL_PASSWORD_HASHES", "2",
            "passwords hashed at the same time; each takes a core and 19 MiB", positive);
        let limits = Limits::declare(env);
        let tokens = tokens?;
        Some(Self {
            http: http?,
            database: database?,
            redis: redis?,
            storage: storage?,
            sessions: sessions::Config {
                idle_lifetime: idle?,
                absolute_lifetime: absolute?,
                access_token_lifetime: tokens.lifetime,
            },
            tokens,
            passwords: passwords::Config { parallel: parallel? },
            limits: limits?,
        })
    }
}

impl Http {
    fn declare(env: &mut Env<'_>) -> Option<Self> {
        let host = env.or_default("HOST", "0.0.0.0", "the address to listen on", parse);
        let port = env.or_default("PORT", "3000", "the port to listen on; 0 picks a free one", parse);
        let ops_address = env.optional("OPS_ADDR",
            "serve /health and /metrics on this address:port instead of on the main port", parse);
        let trusted_proxies = env.or_default("TRUSTED_PROXIES", "",
            "networks (CIDR, comma-separated) whose X-Forwarded-For is believed", list(parse));
        let request_timeout = env.or_default("SHOAL_REQUEST_TIMEOUT_MS", "5000",
            "deadline of a request; a client may ask for less by X-Request-Timeout-Ms", millis);
        let cors_origins = env.or_default("SHOAL_CORS_ORIGINS", "",
            "origins (comma-separated) whose pages may call this API", list(parse::<HeaderValue>));
        let header_timeout = env.or_default("SHOAL_HEADER_TIMEOUT_MS", "10000",
            "how long a client may take to send the head of a request", millis);
        let drain_delay = env.or_default("SHOAL_DRAIN_DELAY_MS", "5000",
            "after SIGTERM, how long readiness says no before the listener closes", millis);
        let drain_cap = env.or_default("SHOAL_DRAIN_CAP_MS", "25000",
            "how long requests in flight may take after that", millis);
        Some(Self {
            host: host?,
            port: port?,
            ops_address: ops_address?,
            trusted_proxies: trusted_proxies?,
            layers: layers::Config {
                request_timeout: request_timeout?,
                cors_origins: cors_origins?,
            },
            server: server::Config {
                header_timeout: header_timeout?,
                drain_delay: drain_delay?,
                drain_cap: drain_cap?,
            },
        })
    }
}

impl Limits {
    fn declare(env: &mut Env<'_>) -> Option<Self> {
        let default = env.or_default("SHOAL_RATE_LIMIT_DEFAULT", "600/60",
            "requests/seconds of one user, or of one address without a token", parse_policy("default"));
        let login_account = env.or_default("SHOAL_RATE_LIMIT_LOGIN_ACCOUNT", "5/900",
            "failed log-ins/seconds to one account", parse_policy("login_account"));
        let login_ip = env.or_default("SHOAL_RATE_LIMIT_LOGIN_IP", "20/60",
            "log-ins and registrations/seconds from one address", parse_policy("login_ip"));
        let local_share = env.or_default("SHOAL_RATE_LIMIT_LOCAL_SHARE", "0.34",
            "the part of each quota that one replica grants while Redis is away", parse);
        Some(Self {
            default: default?,
            login_account: login_account?,
            login_ip: login_ip?,
            local_share: local_share?,
        })
    }
}

fn declare_database(env: &mut Env<'_>) -> Option<db::Config> {
    let primary_url = env.required("DATABASE_URL", "the primary, through PgBouncer", postgres_url);
    let replica_urls = env.or_default("DATABASE_REPLICA_URLS", "",
        "the streaming replicas (comma-separated), each through its PgBouncer", list(postgres_url));
    let pool_size = env.or_default("SHOAL_DB_POOL_SIZE", "10",
        "connections of this process to each PgBouncer, at most", positive);
    let acquire_timeout = env.or_default("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "1000",
        "how long a request waits for a connection", millis);
    Some(db::Config {
        primary_url: primary_url?,
        replica_urls: replica_urls?,
        pool_size: pool_size?,
        acquire_timeout: acquire_timeout?,
    })
}

fn declare_redis(env: &mut Env<'_>) -> Option<redis::Config> {
    let url = env.required("REDIS_URL", "Redis", secret);
    let prefix = env.or_default("SHOAL_REDIS_PREFIX", "shoal", "stands before every key", text);
    let timeout = env.or_default("SHOAL_REDIS_TIMEOUT_MS", "100",
        "how long one round trip to Redis may take", millis);
    Some(redis::Config {
        url: url?,
        prefix: prefix?,
        timeout: timeout?,
    })
}

fn declare_storage(env: &mut Env<'_>) -> Option<storage::Config> {
    let bucket = env.required("S3_BUCKET", "the bucket for uploads", text);
    let endpoint = env.optional("S3_ENDPOINT", "an S3 server other than AWS'", text);
    let region = env.or_default("AWS_REGION", "us-east-1", "the region of the bucket", text);
    let key = env.optional("AWS_ACCESS_KEY_ID",
        "without it the AWS SDK's own chain is asked (web identity, instance role)", secret);
    let secret_key = env.optional("AWS_SECRET_ACCESS_KEY", "belongs to AWS_ACCESS_KEY_ID", secret);
    let path_style = env.or_default("SHOAL_S3_PATH_STYLE", "false",
        "address the bucket as endpoint/bucket, as most servers other than AWS' need", flag);
    let credentials = match (key?, secret_key?) {
        (Some(key), Some(secret)) => Some((key, secret)),
        (None, None) => None,
        _ => {
            env.mistake("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: set both or neither");
            None
        }
    };
    Some(storage::Config {
        bucket: bucket?,
        region: region?,
        endpoint: endpoint?,
        path_style: path_style?,
        credentials,
    })
}

fn declare_tokens(env: &mut Env<'_>) -> Option<tokens::Config> {
    let private_keys = env.required("JWT_PRIVATE_KEYS",
        "Ed25519 keys (PKCS#8 PEM): the first signs, all verify; `shoal keys generate` makes one",
        secret);
    let issuer = env.or_default("SHOAL_JWT_ISSUER", "shoal", "`iss` of access tokens", text);
    let audience = env.or_default("SHOAL_JWT_AUDIENCE", "shoal", "`aud` of access tokens", text);
    let lifetime = env.or_default("SHOAL_ACCESS_TOKEN_SECS", "600",
        "how long an access token is good for", secs);
    Some(tokens::Config {
        private_keys: private_keys?,
        issuer: issuer?,
        audience: audience?,
        lifetime: lifetime?,
    })
}

fn declare_telemetry(env: &mut Env<'_>) -> Option<telemetry::Config> {
    let filter = env.or_default("RUST_LOG", "info",
        "what to log: level, or target=level pairs; `access=off` silences the access log", text);
    let format = env.or_default("SHOAL_LOG_FORMAT", "json", "json or text", parse::<LogFormat>);
    let otlp_endpoint = env.optional("OTEL_EXPORTER_OTLP_ENDPOINT",
        "a collector that takes traces by OTLP over HTTP", text);
    Some(telemetry::Config {
        filter: filter?,
        format: format?,
        otlp_endpoint: otlp_endpoint?,
    })
}

fn declare_direct_url(env: &mut Env<'_>) -> Option<SecretString> {
    env.required("DATABASE_DIRECT_URL",
        "the primary without PgBouncer, as a role that may change the schema; only for `migrate`",
        postgres_url)
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
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    unknown_names(names.iter().map(String::as_str))
}

fn unknown_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Mistakes> {
    let known = variables();
    let is_known = |name: &str| {
        let name = name.strip_suffix("_FILE").unwrap_or(name);
        known.iter().any(|variable| variable.name == name)
    };
    let unknown: Vec<&str> = names
        .filter(|name| name.starts_with("SHOAL_") && !is_known(name))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Mistakes(format!(
        "unknown in the environment: {}; `shoal env` lists every name",
        unknown.join(", ")
    )))
}

/// Checked when it is read, so that a mistake is reported with the others, and never quoted.
fn postgres_url(value: &str) -> Result<SecretString, String> {
    let url = SecretString::from(value.to_owned());
    match db::connect_options(&url) {
        Ok(_) if url.expose_secret().starts_with("postgres") => Ok(url),
        _ => Err("is not a URL of the form postgres://user:password@host:port/database".to_owned()),
    }
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
    fn refuses_misspelt_names_only() {
        let names = ["SHOAL_LOG_FORMAT", "SHOAL_REDIS_PREFIX_FILE", "PATH"];
        assert!(unknown_names(names.into_iter()).is_ok());
        let error = unknown_names(["SHOAL_LOGFORMAT"].into_iter()).unwrap_err();
        assert!(error.to_string().contains("SHOAL_LOGFORMAT"));
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        let lookup = |name: &str| (name == "DATABASE_URL").then(|| "mysql://a:hunter2@b/c".to_owned());
        let error = read_database(&lookup).err().unwrap().to_string();
        assert!(error.contains("DATABASE_URL"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
