//! Every setting: its name, default and meaning, and the part of the platform that it configures.

mod fleet;
mod http;
mod partners;
mod stores;
mod uploads;
mod webhooks;
mod work;

use self::{
    fleet::declare_fleet,
    partners::{declare_mail, declare_payments},
    stores::declare_storage,
    uploads::declare_uploads,
    webhooks::declare_webhooks,
    work::{declare_months_kept, declare_orders, declare_streams},
};
pub(super) use self::{
    stores::{declare_cache, declare_database, declare_direct_url, declare_redis},
    work::declare_jobs,
};
use super::{Config, Http, Limits};
use crate::platform::{
    env::{Env, parse, positive, secret, secs, text},
    passwords,
    rate_limit::parse_policy,
    sessions,
    telemetry::{self, LogFormat},
    tokens, turns, upkeep,
};

/// The longest times that make sense, by kind. What is longer is most likely a slip of the unit.
const MINUTE_MS: u64 = 60 * 1_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_SECS: u64 = 24 * 60 * 60;
const YEARS_SECS: u64 = 10 * 365 * DAY_SECS;

impl Config {
    pub(super) fn declare(env: &mut Env<'_>) -> Option<Self> {
        let http = Http::declare(env);
        let database = declare_database(env);
        let redis = declare_redis(env);
        let cache = declare_cache(env);
        let storage = declare_storage(env);
        let uploads = declare_uploads(env);
        let jobs = declare_jobs(env);
        let months_kept = declare_months_kept(env);
        let orders = declare_orders(env);
        let streams = declare_streams(env);
        let payments = declare_payments(env);
        let mail = declare_mail(env);
        let webhooks = declare_webhooks(env);
        let fleet = declare_fleet(env);
        let tokens = declare_tokens(env);
        let idle = env.or_default(
            "SHOAL_SESSION_IDLE_SECS",
            "604800",
            "a session that is not refreshed for this long ends",
            secs(1..=YEARS_SECS),
        );
        let absolute = env.or_default(
            "SHOAL_SESSION_ABSOLUTE_SECS",
            "2592000",
            "a session ends after this long, refreshed or not",
            secs(1..=YEARS_SECS),
        );
        let parallel = env.optional(
            "SHOAL_PASSWORD_HASHES",
            "passwords hashed at the same time, each on a core and 19 MiB; otherwise one per core",
            positive,
        );
        let limits = Limits::declare(env);
        let (tokens, jobs) = (tokens?, jobs?);
        Some(Self {
            http: http?,
            database: database?,
            redis: redis?,
            cache: cache?,
            storage: storage?,
            uploads: uploads?,
            upkeep: upkeep::Config { job_retention: jobs.retention, months_kept: months_kept? },
            jobs,
            orders: orders?,
            streams: streams?,
            payments: payments?,
            mail: mail?,
            webhooks: webhooks?,
            fleet: fleet?,
            sessions: sessions::Config {
                idle_lifetime: idle?,
                absolute_lifetime: absolute?,
                access_token_lifetime: tokens.lifetime,
            },
            tokens,
            passwords: passwords::Config { parallel: parallel?.unwrap_or_else(turns::cores) },
            limits: limits?,
        })
    }
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
        secs(1..=DAY_SECS),
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
