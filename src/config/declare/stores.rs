//! Where the servers are that hold the state.

use secrecy::{ExposeSecret, SecretString};

use super::{HOUR_MS, MINUTE_MS, partners::http_url};
use crate::platform::{
    cache, db,
    env::{Env, flag, list, millis, positive, secret, text},
    redis, storage,
};

pub(in crate::config) fn declare_database(env: &mut Env<'_>) -> Option<db::Config> {
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
        millis(10..=MINUTE_MS),
    );
    let look_timeout = env.or_default(
        "SHOAL_DB_LOOK_TIMEOUT_MS",
        "1000",
        "a database that does not say where it is in this time counts as away",
        millis(10..=MINUTE_MS),
    );
    let max_replica_lag = env.or_default(
        "SHOAL_DB_MAX_REPLICA_LAG_MS",
        "5000",
        "a replica further behind the primary than this is not read from",
        millis(0..=HOUR_MS),
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

pub(in crate::config) fn declare_redis(env: &mut Env<'_>) -> Option<redis::Config> {
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
        millis(1..=MINUTE_MS),
    );
    Some(redis::Config { urls: urls?, prefix: prefix?, timeout: timeout? })
}

pub(in crate::config) fn declare_cache(env: &mut Env<'_>) -> Option<cache::Config> {
    let near_life = env.or_default(
        "SHOAL_NEAR_CACHE_MS",
        "2000",
        "how long a copy in this process may answer instead of Redis",
        millis(0..=MINUTE_MS),
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

pub(super) fn declare_storage(env: &mut Env<'_>) -> Option<storage::Config> {
    let bucket = env.required("S3_BUCKET", "the bucket for uploads", text);
    let prefix = env.or_default(
        "SHOAL_S3_PREFIX",
        "",
        "stands before every key; deployments that share a bucket need one each",
        key_prefix,
    );
    let endpoint = env.optional("S3_ENDPOINT", "an S3 server other than AWS'", text);
    let public_endpoint = env.optional(
        "SHOAL_S3_PUBLIC_ENDPOINT",
        "where clients reach the S3 server, if elsewhere: presigned addresses begin with it",
        http_url,
    );
    let timeout = env.or_default(
        "SHOAL_S3_TIMEOUT_MS",
        "2000",
        "how long S3 may take over one call; all that a request asks of it takes hardly longer",
        millis(1..=MINUTE_MS),
    );
    let calls = env.or_default(
        "SHOAL_S3_CALLS",
        "32",
        "calls of this process to S3 at the same time; others wait for half a second, then 503",
        positive,
    );
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
        prefix: prefix?,
        region: region?,
        endpoint: endpoint?,
        public_endpoint: public_endpoint?.map(|url| url.as_str().trim_end_matches('/').to_owned()),
        timeout: timeout?,
        calls: calls?,
        path_style: path_style?,
        credentials,
    })
}

pub(in crate::config) fn declare_direct_url(env: &mut Env<'_>) -> Option<SecretString> {
    env.required(
        "DATABASE_DIRECT_URL",
        "the primary without PgBouncer, as a role that may change the schema; only for `migrate`",
        postgres_url,
    )
}

/// With a slash at its end, unless it is empty.
fn key_prefix(value: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if !value.bytes().all(is_plain) {
        return Err("may have ASCII letters, digits, `-`, `_`, `.` and `/`".to_owned());
    }
    let prefix = value.trim_matches('/');
    Ok(if prefix.is_empty() { String::new() } else { format!("{prefix}/") })
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
