//! Redis: whether it is set up to be a cache that cannot lie, and nothing else.

use std::collections::HashMap;

use deadpool_redis::redis::{
    self, AsyncConnectionConfig, RedisError, aio::MultiplexedConnection, cmd,
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    clock::{self, Look},
    finding::{Rule, Verdict, hold},
};

/// The oldest that the scripts are tested with.
const OLDEST: u32 = 6;

/// The state of the cluster that a server says it has no part in.
const DISABLED: &str = "disabled";

/// A part of `maxmemory` beyond which it is as good as full.
const FULL: f64 = 0.9;

/// What a server says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Redis {
    /// The lines of `INFO`.
    pub(super) info: HashMap<String, String>,
    /// When it writes snapshots; `None` if it does not let itself be asked.
    pub(super) save: Option<String>,
    /// Whether it should be a node of a cluster, and thinks all is well with that.
    pub(super) cluster: Option<String>,
}

pub(super) const RULES: [Rule<Redis>; 6] = [
    Rule {
        id: "redis.version",
        why: "the scripts are tested with this version and later ones",
        judge: |seen| {
            let told = seen.of("redis_version");
            let major: u32 = told.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let mend = format!("upgrade to Redis {OLDEST} or newer");
            hold(major >= OLDEST, format!("Redis {told}"), mend)
        },
    },
    Rule {
        id: "redis.primary",
        why: "a replica of Redis refuses writes: no cache, no fleet-wide limits",
        judge: primary,
    },
    Rule {
        id: "redis.eviction",
        why: "a buried entry that is evicted lets the value in that a write has replaced",
        judge: |seen| {
            let policy = seen.of("maxmemory_policy");
            hold(policy == "noeviction", policy, "set maxmemory-policy noeviction")
        },
    },
    Rule {
        id: "redis.maxmemory",
        why: "without a bound it grows until the system ends it; full, it refuses writes, and \
              the caches stay cold",
        judge: maxmemory,
    },
    Rule {
        id: "redis.persistence",
        why: "what comes back from an old snapshot would be believed: sessions that were ended, \
              prices that were changed",
        judge: persistence,
    },
    Rule {
        id: "redis.cluster",
        why: "several URLs are nodes of one cluster, each of which has its part of the keys",
        judge: |seen| match &seen.cluster {
            None => Verdict::Passed("a single one".to_owned()),
            Some(state) => hold(
                state == "ok",
                format!("cluster_state {state}"),
                "give one URL, or nodes of a cluster that covers all slots",
            ),
        },
    },
];

impl Redis {
    fn of(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> f64 {
        self.of(name).parse().unwrap_or_default()
    }
}

fn primary(seen: &Redis) -> Verdict {
    let role = seen.of("role");
    let told = format!("its role is {role}");
    // Whoever asks any node of a cluster is led to the one that has the key.
    if role != "master" && seen.cluster.as_deref().is_some_and(|state| state != DISABLED) {
        return Verdict::Noted(format!(
            "{told}, in a cluster, which leads writes to its primaries"
        ));
    }
    hold(role == "master", told, "point REDIS_URL at the primary")
}

fn maxmemory(seen: &Redis) -> Verdict {
    let (most, used) = (seen.number("maxmemory"), seen.number("used_memory"));
    let megabytes = |bytes: f64| bytes / 1024.0 / 1024.0;
    if most == 0.0 {
        let mend = "set maxmemory to what the machine can spare".to_owned();
        return Verdict::Failed("no maxmemory".to_owned(), mend);
    }
    let told = format!("{:.0} of {:.0} MB used", megabytes(used), megabytes(most));
    hold(used <= most * FULL, told, "raise maxmemory, or give Redis to fewer")
}

fn persistence(seen: &Redis) -> Verdict {
    const MEND: &str = "set save \"\" and appendonly no";
    if seen.of("aof_enabled") == "1" {
        return Verdict::Failed("keeps an append-only file".to_owned(), MEND.to_owned());
    }
    match seen.save.as_deref() {
        Some("") => Verdict::Passed("none".to_owned()),
        Some(save) => Verdict::Failed(format!("writes snapshots: {save}"), MEND.to_owned()),
        None => Verdict::Skipped(
            "no append-only file; whether it writes snapshots it does not tell".to_owned(),
            "let this user run CONFIG GET, or look at its settings: save \"\"".to_owned(),
        ),
    }
}

/// What a URL leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Alone,
    /// One of a cluster's.
    Node,
}

/// Asks one server; there is its clock alone if it may not be asked for more.
pub(super) async fn look(
    url: &SecretString,
    place: Place,
) -> Result<(Option<Redis>, Look), String> {
    let client = redis::Client::open(url.expose_secret()).map_err(|error| told(&error))?;
    // Whoever looks is bounded already.
    let unbounded =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&unbounded).await;
    let mut connection = connection.map_err(|error| told(&error))?;
    ask(&mut connection, place).await.map_err(|error| told(&error))
}

async fn ask(
    connection: &mut MultiplexedConnection,
    place: Place,
) -> Result<(Option<Redis>, Look), RedisError> {
    let asked = clock::now();
    let (seconds, micros): (f64, f64) = cmd("TIME").query_async(connection).await?;
    let look = Look { asked, answered: clock::now(), theirs: seconds + micros / 1e6 };
    let info: String = match cmd("INFO").query_async(connection).await {
        Err(error) if is_forbidden(&error) => return Ok((None, look)),
        info => info?,
    };
    let save = cmd("CONFIG").arg("GET").arg("save").query_async(connection).await;
    let save: Option<Vec<String>> = save.ok();
    let cluster = if place == Place::Node {
        let told: String =
            cmd("CLUSTER").arg("INFO").query_async(connection).await.unwrap_or_default();
        Some(lines(&told).remove("cluster_state").unwrap_or_else(|| DISABLED.to_owned()))
    } else {
        None
    };
    let save = save.and_then(|pair| pair.into_iter().nth(1));
    Ok((Some(Redis { info: lines(&info), save, cluster }), look))
}

/// The server answers; this user may not ask that.
fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

fn lines(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn told(error: &RedisError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Redis {
        let info = "redis_version:7.0.15\r\nrole:master\r\nmaxmemory:268435456\r\n\
                    used_memory:1048576\r\nmaxmemory_policy:noeviction\r\naof_enabled:0\r\n";
        Redis { info: lines(info), save: Some(String::new()), cluster: None }
    }

    fn failed(change: impl FnOnce(&mut Redis)) -> Vec<&'static str> {
        let mut redis = sound();
        change(&mut redis);
        let fails = |rule: &&Rule<Redis>| matches!((rule.judge)(&redis), Verdict::Failed(..));
        RULES.iter().filter(fails).map(|rule| rule.id).collect()
    }

    #[test]
    fn each_fault_is_told_and_no_other() {
        assert_eq!(failed(|_| {}), [""; 0]);
        let with = |name: &str, value: &str| {
            failed(|redis| drop(redis.info.insert(name.to_owned(), value.to_owned())))
        };
        for (name, value, told) in [
            ("redis_version", "5.0.14", "redis.version"),
            ("role", "slave", "redis.primary"),
            ("maxmemory_policy", "allkeys-lru", "redis.eviction"),
            ("maxmemory", "0", "redis.maxmemory"),
            ("used_memory", "268435000", "redis.maxmemory"),
            ("aof_enabled", "1", "redis.persistence"),
        ] {
            assert_eq!(with(name, value), [told]);
        }
        assert_eq!(failed(|r| r.save = Some("3600 1".to_owned())), ["redis.persistence"]);
        assert_eq!(failed(|r| r.cluster = Some("fail".to_owned())), ["redis.cluster"]);
        assert_eq!(failed(|r| r.cluster = Some("ok".to_owned())), [""; 0]);
        // A provider that lets nobody look at settings.
        assert_eq!(failed(|r| r.save = None), [""; 0]);
    }

    #[test]
    fn a_replica_is_wrong_but_where_a_cluster_leads_writes_on() {
        for (cluster, told) in [
            (None, &["redis.primary"][..]),
            (Some("ok"), &[]),
            (Some("disabled"), &["redis.primary", "redis.cluster"]),
        ] {
            let replica = failed(|redis| {
                redis.info.insert("role".to_owned(), "slave".to_owned());
                redis.cluster = cluster.map(str::to_owned);
            });
            assert_eq!(replica, told, "{cluster:?}");
        }
    }
}
