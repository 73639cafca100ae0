//! Every setting: its name, default and meaning, and the part of the platform that it configures.

use secrecy::{ExposeSecret, SecretString};

use super::{Config, Http, Limits};
use crate::platform::{
    cache,
    concurrency::Bounds,
    db,
    env::{Env, flag, list, millis, parse, positive, secret, secs, text},
    http::{connections, layers, server},
    passwords,
    rate_limit::parse_policy,
    redis, sessions, storage,
    telemetry::{self, LogFormat},
    tokens,
};

impl Config {
    pub(super) fn declare(env: &mut Env<'_>) -> Option<Self> {
        let http = Http::declare(env);
        let database = declare_database(env);
        let redis = declare_redis(env);
        let cache = declare_cache(env);
        let storage = declare_storage(env);
        let tokens = declare_tokens(env);
        let idle = env.or_default(
            "SHOAL_SESSION_IDLE_SECS",
            "604800",
            "a session that is not refreshed for this long ends",
            secs,
        );
        let absolute = env.or_default(
            "SHOAL_SESSION_ABSOLUTE_SECS",
            "2592000",
            "a session ends after this long, refreshed or not",
            secs,
        );
        let parallel = env.optional(
            "SHOAL_PASSWORD_HASHES",
            "passwords hashed at the same time, each on a core and 19 MiB; otherwise one per core",
            positive,
        );
        let limits = Limits::declare(env);
        let tokens = tokens?;
        Some(Self {
            http: http?,
            database: database?,
            redis: redis?,
            cache: cache?,
            storage: storage?,
            sessions: sessions::Config {
                idle_lifetime: idle?,
                absolute_lifetime: absolute?,
                access_token_lifetime: tokens.lifetime,
            },
            tokens,
            passwords: passwords::Config { parallel: parallel?.unwrap_or_else(passwords::cores) },
            limits: limits?,
        })
    }
}

impl Http {
    fn declare(env: &mut Env<'_>) -> Option<Self> {
        let host = env.or_default("HOST", "0.0.0.0", "the address to listen on", parse);
        let port =
            env.or_default("PORT", "3000", "the port to listen on; 0 picks a free one", parse);
        let ops_address = env.optional(
            "OPS_ADDR",
            "serve /health and /metrics on this address:port instead of on the main port",
            parse,
        );
        let trusted_proxies = env.or_default(
            "TRUSTED_PROXIES",
            "",
            "networks (CIDR, comma-separated) whose X-Forwarded-For is believed",
            list(parse),
        );
        let request_timeout = env.or_default(
            "SHOAL_REQUEST_TIMEOUT_MS",
            "5000",
            "deadline of a request; a client may ask for less by X-Request-Timeout-Ms",
            millis,
        );
        let body_timeout = env.or_default(
            "SHOAL_BODY_TIMEOUT_MS",
            "30000",
            "how long the body of a request may take to arrive, within its deadline",
            millis,
        );
        let concurrency = declare_concurrency(env);
        let cors_origins = env.or_default(
            "SHOAL_CORS_ORIGINS",
            "",
            "origins (comma-separated) whose pages may call this API",
            list(parse),
        );
        let header_timeout = env.or_default(
            "SHOAL_HEADER_TIMEOUT_MS",
            "10000",
            "how long a client may take to send the head of a request",
            millis,
        );
        let max_connections = env.or_default(
            "SHOAL_MAX_CONNECTIONS",
            "10000",
            "open connections of clients, at most; fewer if the process may not open as many files",
            positive,
        );
        let max_per_address = env.or_default(
            "SHOAL_MAX_CONNECTIONS_PER_IP",
            "1000",
            "of them from one address that is no trusted proxy; 0 for no limit",
            parse,
        );
        let drain_delay = env.or_default(
            "SHOAL_DRAIN_DELAY_MS",
            "5000",
            "after SIGTERM, how long readiness says no before the listener closes",
            millis,
        );
        let drain_cap = env.or_default(
            "SHOAL_DRAIN_CAP_MS",
            "25000",
            "how long requests in flight may take after that",
            millis,
        );
        let trusted_proxies: Vec<_> = trusted_proxies?;
        Some(Self {
            host: host?,
            port: port?,
            ops_address: ops_address?,
            trusted_proxies: trusted_proxies.clone(),
            concurrency: concurrency?,
            layers: layers::Config {
                request_timeout: request_timeout?,
                body_timeout: body_timeout?,
                cors_origins: cors_origins?,
            },
            server: server::Config {
                header_timeout: header_timeout?,
                connections: connections::Config {
                    max: max_connections?,
                    max_per_address: max_per_address?,
                    trusted_proxies,
                },
                drain_delay: drain_delay?,
                drain_cap: drain_cap?,
            },
        })
    }
}

fn declare_concurrency(env: &mut Env<'_>) -> Option<Bounds> {
    let max = env.or_default(
        "SHOAL_CONCURRENCY_MAX",
        "1024",
        "requests in progress in this process, at most; fewer while they are slow",
        positive,
    );
    let min = env.or_default(
        "SHOAL_CONCURRENCY_MIN",
        "32",
        "requests in progress that are let in however slow they are; the maximum turns measuring off",
        positive,
    );
    let (min, max) = (min?, max?);
    if min > max {
        env.mistake("SHOAL_CONCURRENCY_MIN is above SHOAL_CONCURRENCY_MAX");
        return None;
    }
    Some(Bounds { min, max })
}

impl Limits {
    fn declare(env: &mut Env<'_>) -> Option<Self> {
        let default = env.or_default(
            "SHOAL_RATE_LIMIT_DEFAULT",
            "600/60",
            "reads/seconds of one user, or of one address without a token",
            parse_policy("default"),
        );
        let write = env.or_default(
            "SHOAL_RATE_LIMIT_WRITE",
            "120/60",
            "requests/seconds of the same that may change something",
            parse_policy("write"),
        );
        let login_account = env.or_default(
            "SHOAL_RATE_LIMIT_LOGIN_ACCOUNT",
            "5/900",
            "failed log-ins/seconds to one account",
            parse_policy("login_account"),
        );
        let login_ip = env.or_default(
            "SHOAL_RATE_LIMIT_LOGIN_IP",
            "20/60",
            "log-ins and registrations/seconds from one address",
            parse_policy("login_ip"),
        );
        let local_share = env.or_default(
            "SHOAL_RATE_LIMIT_LOCAL_SHARE",
            "0.34",
            "the part of each quota that one replica grants while Redis is away",
            parse,
        );
        Some(Self {
            default: default?,
            write: write?,
            login_account: login_account?,
            login_ip: login_ip?,
            local_share: local_share?,
        })
    }
}

pub(super) fn declare_database(env: &mut Env<'_>) -> Option<db::Config> {
    let primary_url = env.required("DATABASE_URL", "the primary, through PgBouncer", postgres_url);
    let replica_urls = env.or_default(
        "DATABASE_REPLICA_URLS",
        "",
        "the streaming replicas (comma-separated), each through its PgBouncer",
        list(postgres_url),
    );
    let pool_size = env.or_default(
        "SHOAL_DB_POOL_SIZE",
        "10",
        "connections of this process to each PgBouncer, at most",
        positive,
    );
    let acquire_timeout = env.or_default(
        "SHOAL_DB_ACQUIRE_TIMEOUT_MS",
        "1000",
        "how long a request waits for a connection",
        millis,
    );
    let look_timeout = env.or_default(
        "SHOAL_DB_LOOK_TIMEOUT_MS",
        "1000",
        "a database that does not say where it is in this time counts as away",
        millis,
    );
    let max_replica_lag = env.or_default(
        "SHOAL_DB_MAX_REPLICA_LAG_MS",
        "5000",
        "a replica further behind the primary than this is not read from",
        millis,
    );
    Some(db::Config {
        primary_url: primary_url?,
        replica_urls: replica_urls?,
        pool_size: pool_size?,
        acquire_timeout: acquire_timeout?,
        max_replica_lag: max_replica_lag?,
        look_timeout: look_timeout?,
    })
}

pub(super) fn declare_redis(env: &mut Env<'_>) -> Option<redis::Config> {
    let urls = env.required(
        "REDIS_URL",
        "Redis; several URLs (comma-separated) are nodes of a Redis Cluster",
        list(redis_url),
    );
    let prefix = env.or_default("SHOAL_REDIS_PREFIX", "shoal", "stands before every key", text);
    let timeout = env.or_default(
        "SHOAL_REDIS_TIMEOUT_MS",
        "100",
        "how long one round trip to Redis may take",
        millis,
    );
    Some(redis::Config { urls: urls?, prefix: prefix?, timeout: timeout? })
}

pub(super) fn declare_cache(env: &mut Env<'_>) -> Option<cache::Config> {
    let near_life = env.or_default(
        "SHOAL_NEAR_CACHE_MS",
        "2000",
        "how long a copy in this process may answer instead of Redis",
        millis,
    );
    let near_bytes = env.or_default(
        "SHOAL_NEAR_CACHE_BYTES",
        "16777216",
        "what the copies of one kind may take in this process",
        positive,
    );
    let loads = env.or_default(
        "SHOAL_CACHE_LOADS",
        "6",
        "cache misses loaded from the database at the same time; below SHOAL_DB_POOL_SIZE",
        positive,
    );
    Some(cache::Config { near_life: near_life?, near_bytes: near_bytes?, loads: loads? })
}

fn declare_storage(env: &mut Env<'_>) -> Option<storage::Config> {
    let bucket = env.required("S3_BUCKET", "the bucket for uploads", text);
    let endpoint = env.optional("S3_ENDPOINT", "an S3 server other than AWS'", text);
    let region = env.or_default("AWS_REGION", "us-east-1", "the region of the bucket", text);
    let key = env.optional(
        "AWS_ACCESS_KEY_ID",
        "without it the AWS SDK's own chain is asked (web identity, instance role)",
        secret,
    );
    let secret_key = env.optional("AWS_SECRET_ACCESS_KEY", "belongs to AWS_ACCESS_KEY_ID", secret);
    let path_style = env.or_default(
        "SHOAL_S3_PATH_STYLE",
        "false",
        "address the bucket as endpoint/bucket, as most servers other than AWS' need",
        flag,
    );
    let credentials = match (key?, secret_key?) {
        (Some(key), Some(secret)) => Some((key, secret)),
        (None, None) => None,
        _ => {
            env.mistake(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: set both or neither",
            );
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
    let private_keys = env.required(
        "JWT_PRIVATE_KEYS",
        "Ed25519 keys (PKCS#8 PEM): the first signs, all verify; `shoal keys generate` makes one",
        secret,
    );
    let issuer = env.or_default("SHOAL_JWT_ISSUER", "shoal", "`iss` of access tokens", text);
    let audience = env.or_default("SHOAL_JWT_AUDIENCE", "shoal", "`aud` of access tokens", text);
    let lifetime = env.or_default(
        "SHOAL_ACCESS_TOKEN_SECS",
        "600",
        "how long an access token is good for",
        secs,
    );
    Some(tokens::Config {
        private_keys: private_keys?,
        issuer: issuer?,
        audience: audience?,
        lifetime: lifetime?,
    })
}

pub(super) fn declare_telemetry(env: &mut Env<'_>) -> Option<telemetry::Config> {
    let filter = env.or_default(
        "RUST_LOG",
        "info",
        "what to log: level, or target=level pairs; `access=off` silences the access log",
        text,
    );
    let format = env.or_default("SHOAL_LOG_FORMAT", "json", "json or text", parse::<LogFormat>);
    let otlp_endpoint = env.optional(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "a collector that takes traces by OTLP over HTTP",
        text,
    );
    Some(telemetry::Config { filter: filter?, format: format?, otlp_endpoint: otlp_endpoint? })
}

pub(super) fn declare_direct_url(env: &mut Env<'_>) -> Option<SecretString> {
    env.required(
        "DATABASE_DIRECT_URL",
        "the primary without PgBouncer, as a role that may change the schema; only for `migrate`",
        postgres_url,
    )
}

/// Checked when it is read, so that a mistake is reported with the others, and never quoted.
fn postgres_url(value: &str) -> Result<SecretString, String> {
    let url = SecretString::from(value.to_owned());
    match db::connect_options(&url) {
        Ok(_) if url.expose_secret().starts_with("postgres") => Ok(url),
        _ => Err("is not a URL of the form postgres://user:password@host:port/database".to_owned()),
    }
}

/// Checked when it is read, and never quoted, as above.
fn redis_url(value: &str) -> Result<SecretString, String> {
    let url = SecretString::from(value.to_owned());
    if redis::is_url(&url) {
        Ok(url)
    } else {
        Err("is not a URL of the form redis://:password@host:port".to_owned())
    }
}
