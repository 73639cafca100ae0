//! Postgres, through PgBouncer and as the application's role: what it is set to, and what that role
//! may do.

use std::{collections::HashMap, time::Duration};

use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use super::{
    finding::{Rule, Verdict, hold},
    timeouts::RoleTimeouts,
};
use crate::platform::db;

/// The oldest that the statements here are tested against.
const OLDEST: i32 = 15;

/// What a server says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    /// `150004` for 15.4.
    pub(super) version: i32,
    pub(super) is_in_recovery: bool,
    pub(super) is_read_only: bool,
    /// The same of a primary and of all that follow it.
    pub(super) system: String,
    /// Its clock, in seconds since 1970.
    pub(super) now: f64,
    pub(super) role: String,
    pub(super) max_connections: i64,
    /// Of them for superusers and other privileged roles.
    pub(super) reserved: i64,
    pub(super) timeouts: RoleTimeouts,
    pub(super) slots: i64,
    pub(super) idle_slots: i64,
    /// What slots may keep of the log; -1 for all of it.
    pub(super) slot_megabytes: i64,
    pub(super) settings: HashMap<String, String>,
    /// `superuser` and the like.
    pub(super) attributes: Vec<String>,
    /// Some of what the role owns, and where it may create.
    pub(super) owned: Vec<String>,
    pub(super) may_create_in: Vec<String>,
}

/// What it says of how it follows its primary.
#[derive(Debug, Clone, Default)]
pub(super) struct Standby {
    /// `streaming` if it does.
    pub(super) receiver: Option<String>,
    pub(super) is_paused: bool,
    /// How long a query may hold up the replay; `None` for ever.
    pub(super) delay: Option<Duration>,
}

/// A migration that was begun.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) version: i64,
    pub(super) has_succeeded: bool,
    /// Of its text, in hexadecimal.
    pub(super) checksum: String,
}

/// Of the primary alone.
pub(super) const RULES: [Rule<Server>; 6] = [
    Rule {
        id: "postgres.primary",
        why: "writes are refused by a standby, and what it shows may be old",
        judge: |seen| {
            hold(
                !seen.is_in_recovery,
                if seen.is_in_recovery { "in recovery: a standby" } else { "takes writes" },
                "point DATABASE_URL at the PgBouncer before the primary, or promote this one",
            )
        },
    },
    Rule {
        id: "postgres.version",
        why: "the schema and the statements are tested with this version and later ones",
        judge: |seen| {
            let major = seen.version / 10_000;
            let told = format!("Postgres {major}.{}", seen.version % 10_000);
            hold(major >= OLDEST, told, format!("upgrade to Postgres {OLDEST} or newer"))
        },
    },
    Rule {
        id: "postgres.role",
        why: "a role that may change the schema makes of every flaw in the service one in the \
              schema; migrations have a role of their own",
        judge: role,
    },
    Rule {
        id: "postgres.durability",
        why: "without them a crash or a power cut loses orders that were confirmed, or all data",
        judge: durability,
    },
    Rule {
        id: "postgres.slots",
        why: "a slot keeps the log for a replica that is away, until the primary's disk is full",
        judge: |seen| {
            let kept = match seen.slot_megabytes {
                -1 => "without limit".to_owned(),
                megabytes => format!("{megabytes} MB at most"),
            };
            let told =
                format!("{} slots, {} of them unused, keep {kept}", seen.slots, seen.idle_slots);
            hold(
                seen.slots == 0 || seen.slot_megabytes >= 0,
                told,
                "set max_slot_wal_keep_size to less than there is room for on the disk",
            )
        },
    },
    Rule {
        id: "postgres.replication",
        why: "with asynchronous replication what was committed last is lost if the primary is; \
              with synchronous one, writes wait for a replica",
        judge: |seen| {
            let of = |name| seen.settings.get(name).map_or("", String::as_str);
            let names = match of("synchronous_standby_names") {
                "" => "asynchronous".to_owned(),
                names => format!("synchronous: {names}"),
            };
            Verdict::Noted(format!("{names}, wal_level {}", of("wal_level")))
        },
    },
];

fn role(seen: &Server) -> Verdict {
    let list = |what: &str, names: &[String]| {
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let rights = [
        list("is", &seen.attributes),
        list("owns", &seen.owned),
        list("may create in", &seen.may_create_in),
    ];
    let rights: Vec<String> = rights.into_iter().flatten().collect();
    let role = &seen.role;
    if rights.is_empty() {
        return Verdict::Passed(format!("{role} owns nothing and may create nothing"));
    }
    Verdict::Failed(
        format!("{role} {}", rights.join("; ")),
        format!("log in as a role that postgres/roles.sql makes, or take these rights from {role}"),
    )
}

fn durability(seen: &Server) -> Verdict {
    let is_off = |name: &str| seen.settings.get(name).is_some_and(|value| value == "off");
    let names = ["fsync", "full_page_writes", "synchronous_commit"];
    let off: Vec<&str> = names.into_iter().filter(|name| is_off(name)).collect();
    if off.is_empty() {
        return Verdict::Passed("a commit is on the disk before it is confirmed".to_owned());
    }
    Verdict::Failed(format!("off: {}", off.join(", ")), format!("turn on: {}", off.join(", ")))
}

/// Connects by the URL of the configuration.
pub(super) async fn connect(url: &SecretString) -> Result<PgConnection, String> {
    let options = db::connect_options(url).map_err(|_| "the URL cannot be read".to_owned())?;
    PgConnection::connect_with(&options).await.map_err(|error| told(&error))
}

/// In one line; the server's own words have no password in them.
pub(super) fn told(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Server {
        Server { version: 170_006, role: "shoal_app".to_owned(), ..Server::default() }
    }

    fn failed(seen: &Server) -> Vec<&'static str> {
        let fails = |rule: &&Rule<Server>| matches!((rule.judge)(seen), Verdict::Failed(..));
        RULES.iter().filter(fails).map(|rule| rule.id).collect()
    }

    #[test]
    fn each_fault_is_told_and_no_other() {
        assert_eq!(failed(&sound()), [""; 0]);
        let off = |name: &str| HashMap::from([(name.to_owned(), "off".to_owned())]);
        let some = |name: &str| vec![name.to_owned()];
        for (server, told) in [
            (Server { is_in_recovery: true, ..sound() }, "postgres.primary"),
            (Server { version: 140_012, ..sound() }, "postgres.version"),
            (Server { attributes: some("superuser"), ..sound() }, "postgres.role"),
            (Server { owned: some("orders"), ..sound() }, "postgres.role"),
            (Server { may_create_in: some("schema public"), ..sound() }, "postgres.role"),
            (Server { settings: off("fsync"), ..sound() }, "postgres.durability"),
            (Server { settings: off("synchronous_commit"), ..sound() }, "postgres.durability"),
            (Server { slots: 1, slot_megabytes: -1, ..sound() }, "postgres.slots"),
        ] {
            assert_eq!(failed(&server), [told], "{server:?}");
        }
        assert_eq!(failed(&Server { slots: 2, slot_megabytes: 1_024, ..sound() }), [""; 0]);
    }
}
