//! PgBouncer, asked by its console: as the application's role, which `stats_users` lets in.

use std::{collections::HashMap, time::Duration};

use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use super::{
    finding::{Rule, Verdict, hold},
    postgres::told,
    queries,
};
use crate::platform::db;

/// The first that keeps prepared statements apart in transaction pooling.
const OLDEST: (u32, u32) = (1, 21);

/// What a PgBouncer says of itself.
#[derive(Debug, Clone)]
pub(super) struct Pooler {
    /// `PgBouncer 1.24.1`.
    pub(super) version: String,
    pub(super) config: HashMap<String, String>,
    /// What it makes of the database of this service.
    pub(super) database: Option<Database>,
}

#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) pool_size: i32,
    pub(super) reserve: i32,
    pub(super) pool_mode: Option<String>,
}

/// Why it says nothing.
#[derive(Debug, Clone)]
pub(super) enum Silence {
    /// The URL leads to Postgres itself.
    IsPostgres,
    /// It lets this role not see its console.
    Refused(String),
    Unreachable(String),
}

/// Whether the console answers, which the other rules need.
pub(super) const CONSOLE: Rule<Result<Pooler, Silence>> = Rule {
    id: "pgbouncer.console",
    why: "between the replicas and Postgres stands a PgBouncer, or each process would take its \
          pool's size of Postgres' connections",
    judge: |seen| match seen {
        Ok(_) => Verdict::Passed("answers".to_owned()),
        Err(Silence::IsPostgres) => Verdict::Failed(
            "the URL leads to Postgres itself".to_owned(),
            "point it at a PgBouncer".to_owned(),
        ),
        Err(Silence::Refused(why)) => Verdict::Skipped(
            why.clone(),
            "let the role of DATABASE_URL look: stats_users = shoal_app".to_owned(),
        ),
        Err(Silence::Unreachable(why)) => {
            Verdict::Skipped(why.clone(), "mend what keeps it from being reached".to_owned())
        }
    },
};

pub(super) const RULES: [Rule<Pooler>; 3] = [
    Rule {
        id: "pgbouncer.version",
        why: "before 1.21 prepared statements meet those of other clients in transaction pooling: \
              errors, or wrong results",
        judge: |seen| {
            let is_new = version(&seen.version).is_some_and(|version| version >= OLDEST);
            hold(is_new, &*seen.version, "upgrade PgBouncer to 1.21 or newer")
        },
    },
    Rule {
        id: "pgbouncer.pool_mode",
        why: "in another mode a client keeps its server connection while it does nothing: few \
              clients use up all connections",
        judge: |seen| {
            let mode = seen.pool_mode();
            hold(mode == "transaction", mode, "set pool_mode = transaction")
        },
    },
    Rule {
        id: "pgbouncer.prepared_statements",
        why: "every statement is prepared once per connection; with 0 it meets another client's",
        judge: |seen| {
            let number = seen.number("max_prepared_statements").unwrap_or_default();
            hold(
                number > 0,
                format!("max_prepared_statements {number}"),
                "set max_prepared_statements to 200, which is more than there are",
            )
        },
    },
];

impl Pooler {
    pub(super) fn number(&self, setting: &str) -> Option<u64> {
        self.config.get(setting)?.parse().ok()
    }

    fn pool_mode(&self) -> &str {
        let own = self.database.as_ref().and_then(|database| database.pool_mode.as_deref());
        own.or(self.config.get("pool_mode").map(String::as_str)).unwrap_or_default()
    }

    /// Connections to Postgres that it may have for this service.
    pub(super) fn servers(&self) -> Option<u64> {
        let pool = match &self.database {
            Some(database) => u64::try_from(database.pool_size).ok()?,
            None => self.number("default_pool_size")?,
        };
        let servers = pool + self.reserve()?;
        // Zero is no bound.
        let most = self.number("max_db_connections").filter(|most| *most > 0);
        Some(most.map_or(servers, |most| most.min(servers)))
    }

    /// Those of them that it has beside its pool, should a client have waited for long.
    pub(super) fn reserve(&self) -> Option<u64> {
        match &self.database {
            Some(database) => u64::try_from(database.reserve).ok(),
            None => self.number("reserve_pool_size"),
        }
    }

    pub(super) fn query_wait(&self) -> Option<Duration> {
        let seconds: f64 = self.config.get("query_wait_timeout")?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

fn version(told: &str) -> Option<(u32, u32)> {
    let mut numbers = told.rsplit(' ').next()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Asks the console of the PgBouncer that `url` leads through.
pub(super) async fn look(url: &SecretString) -> Result<Pooler, Silence> {
    let options = db::connect_options(url)
        .map_err(|_| Silence::Unreachable("the URL cannot be read".to_owned()))?;
    let name = options.get_database().unwrap_or(options.get_username()).to_owned();
    let connected = PgConnection::connect_with(&options.database("pgbouncer")).await;
    let mut console = connected.map_err(|error| silence(&error))?;
    let look = async {
        Ok::<_, sqlx::Error>(Pooler {
            version: queries::pooler_version(&mut console).await?,
            config: queries::pooler_config(&mut console).await?,
            database: queries::pooler_database(&mut console, &name).await?,
        })
    };
    look.await.map_err(|error| silence(&error))
}

fn silence(error: &sqlx::Error) -> Silence {
    by_code(queries::code(error).as_deref(), told(error))
}

/// Who has answered is told by the code of its refusal.
fn by_code(code: Option<&str>, why: String) -> Silence {
    match code {
        // PgBouncer's "not allowed".
        Some("08P01") => Silence::Refused(why),
        // What Postgres says of a database `pgbouncer`: there is none, pg_hba.conf lets nobody
        // into it, or, where there is one, that it has no such setting to show.
        Some("3D000" | "28000" | "42704") => Silence::IsPostgres,
        // A wrong password, no place for one more client: either may say so.
        _ => Silence::Unreachable(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooler(version: &str, mode: &str, prepared: &str) -> Pooler {
        let config = [
            ("pool_mode", mode),
            ("max_prepared_statements", prepared),
            ("default_pool_size", "40"),
            ("reserve_pool_size", "5"),
            ("query_wait_timeout", "3"),
        ];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Pooler { version: version.to_owned(), config: config.into(), database: None }
    }

    fn failed(pooler: &Pooler) -> Vec<&'static str> {
        let fails = |rule: &&Rule<Pooler>| matches!((rule.judge)(pooler), Verdict::Failed(..));
        RULES.iter().filter(fails).map(|rule| rule.id).collect()
    }

    #[test]
    fn each_fault_is_told_and_no_other() {
        for (version, mode, prepared, told) in [
            ("PgBouncer 1.24.1", "transaction", "200", &[][..]),
            ("PgBouncer 1.21.0", "transaction", "1", &[]),
            ("PgBouncer 1.18.0", "transaction", "200", &["pgbouncer.version"]),
            ("?", "transaction", "200", &["pgbouncer.version"]),
            ("PgBouncer 1.24.1", "session", "200", &["pgbouncer.pool_mode"]),
            ("PgBouncer 1.24.1", "transaction", "0", &["pgbouncer.prepared_statements"]),
        ] {
            assert_eq!(failed(&pooler(version, mode, prepared)), told, "{version} {mode}");
        }
    }

    #[test]
    fn a_refusal_is_pgbouncers_own_or_comes_from_postgres() {
        let told = |code| match by_code(code, String::new()) {
            Silence::IsPostgres => "Postgres",
            Silence::Refused(_) => "refused",
            Silence::Unreachable(_) => "unreachable",
        };
        for (code, expected) in [
            (Some("08P01"), "refused"),
            (Some("3D000"), "Postgres"),
            (Some("28000"), "Postgres"),
            (Some("42704"), "Postgres"),
            (Some("28P01"), "unreachable"),
            (Some("53300"), "unreachable"),
            (None, "unreachable"),
        ] {
            assert_eq!(told(code), expected, "{code:?}");
        }
    }

    #[test]
    fn all_pools_together_have_a_bound_of_their_own() {
        for (most, expected) in [("0", 45), ("30", 30), ("200", 45)] {
            let mut pooler = pooler("PgBouncer 1.24.1", "transaction", "200");
            pooler.config.insert("max_db_connections".to_owned(), most.to_owned());
            assert_eq!(pooler.servers(), Some(expected), "{most}");
        }
    }

    #[test]
    fn what_is_set_for_the_database_goes_before_what_is_set_for_all() {
        let general = pooler("PgBouncer 1.24.1", "transaction", "200");
        assert_eq!(general.servers(), Some(45));
        assert_eq!(general.query_wait(), Some(Duration::from_secs(3)));
        let own = Database { pool_size: 10, reserve: 2, pool_mode: Some("session".to_owned()) };
        let special = Pooler { database: Some(own), ..general };
        assert_eq!((special.servers(), special.reserve()), (Some(12), Some(2)));
        assert_eq!(failed(&special), ["pgbouncer.pool_mode"]);
    }
}
