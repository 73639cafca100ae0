//! Servers of a test's own that are set up as they should be, and `shoal audit` of them.

use std::collections::{BTreeSet, HashMap};

use lab::{
    mail::MailSink,
    postgres::OwnPostgres,
    provider::Provider,
    redis::Redis,
    topology::{DATABASE, PostgresNode},
};
use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{fleet::environment_of, own_postgres, own_redis, topology, unique};
use crate::cli::shoal;

/// What other tests need because many of them run at once, and nobody who serves should have.
const LENIENT: [&str; 9] = [
    "SHOAL_REQUEST_TIMEOUT_MS",
    "SHOAL_DB_ACQUIRE_TIMEOUT_MS",
    "SHOAL_DB_LOOK_TIMEOUT_MS",
    "SHOAL_DB_POOL_SIZE",
    "SHOAL_REDIS_TIMEOUT_MS",
    "SHOAL_DRAIN_DELAY_MS",
    "SHOAL_JOB_POLL_MS",
    "SHOAL_WEBHOOK_ALLOW_INSECURE",
    "SHOAL_CONCURRENCY_MIN",
];

/// What no server says.
pub const DEPLOYMENT: [&str; 10] = [
    "--max-replicas",
    "20",
    "--max-workers",
    "10",
    "--nginx",
    concat!(env!("CARGO_MANIFEST_DIR"), "/nginx/nginx.conf"),
    "--grace",
    "45",
    "--pre-stop",
    "5",
];

pub struct Audited {
    pub postgres: OwnPostgres,
    pub redis: Redis,
    pub settings: HashMap<String, String>,
    _provider: Provider,
    _mail: MailSink,
}

#[derive(Debug, Deserialize)]
pub struct Report {
    pub totals: HashMap<String, usize>,
    pub checks: Vec<Check>,
    #[serde(skip)]
    pub code: i32,
    #[serde(skip)]
    pub stderr: String,
}

#[derive(Debug, Deserialize)]
pub struct Check {
    pub check: String,
    pub of: String,
    pub outcome: String,
    pub seen: String,
    pub why: String,
    pub mend: String,
}

impl Audited {
    pub async fn start(replicas: usize) -> Self {
        let postgres = own_postgres(replicas);
        let (redis, provider) = (own_redis(), Provider::start().unwrap());
        let mail = MailSink::start(&topology().scratch_dir(&unique("mail")), 0).unwrap();
        let mut settings = environment_of(postgres.topology(), DATABASE);
        settings.retain(|name, _| !LENIENT.contains(&name.as_str()));
        for (name, value) in [
            ("REDIS_URL", redis.url()),
            ("SHOAL_S3_PREFIX", unique("audit")),
            ("SHOAL_S3_TIMEOUT_MS", "4000".to_owned()),
            // This machine is busier than one that serves.
            ("SHOAL_DB_MAX_REPLICA_LAG_MS", "10000".to_owned()),
            ("SHOAL_PAYMENTS_URL", provider.url()),
            ("SHOAL_SMTP_URL", mail.url()),
        ] {
            settings.insert(name.to_owned(), value);
        }
        let audited = Self { postgres, redis, settings, _provider: provider, _mail: mail };
        // Throw-away servers write nothing down in time; those that serve have to.
        let durable = ["fsync = on", "full_page_writes = on"];
        for node in audited.nodes() {
            for setting in durable {
                audited.alter_system(&node, setting).await;
            }
        }
        audited
    }

    /// The primary first.
    pub fn nodes(&self) -> Vec<PostgresNode> {
        let topology = self.postgres.topology();
        std::iter::once(&topology.primary).chain(&topology.replicas).cloned().collect()
    }

    pub fn setting(&self, name: &str) -> String {
        self.settings[name].clone()
    }

    /// Audits with other settings than these, and more options.
    pub async fn audit(&self, changes: &[(&str, &str)], options: &[&str]) -> Report {
        let mut settings = self.settings.clone();
        for (name, value) in changes {
            settings.insert((*name).to_owned(), (*value).to_owned());
        }
        let common = ["audit", "--json"];
        let patient = if options.contains(&"--patience") { &[][..] } else { &["--patience", "30"] };
        let arguments: Vec<&str> = [&common[..], patient, options].concat();
        let output = shoal(&settings, &arguments, "").await;
        let mut report: Report = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", output.stdout, output.stderr));
        (report.code, report.stderr) = (output.code, output.stderr);
        report
    }

    /// The same, of a deployment that is as it should be in all else.
    pub async fn audit_deployed(&self, changes: &[(&str, &str)]) -> Report {
        self.audit(changes, &DEPLOYMENT).await
    }

    /// Runs statements on a node as a superuser, past PgBouncer.
    pub async fn run(&self, node: &PostgresNode, statements: &[&str]) {
        let url = node.direct_url(&self.postgres.topology().superuser, DATABASE);
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for statement in statements {
            connection.execute(AssertSqlSafe((*statement).to_owned())).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    /// Changes a setting of a server, and returns once it is in force for new sessions.
    pub async fn alter_system(&self, node: &PostgresNode, setting: &str) {
        let altered = format!("alter system set {setting}");
        let close = "select pg_terminate_backend(pid) from pg_stat_activity
            where usename = 'shoal_app'";
        self.run(node, &[&altered, "select pg_reload_conf()"]).await;
        let (name, value) = setting.split_once(" = ").unwrap();
        let url = node.direct_url(&self.postgres.topology().superuser, DATABASE);
        let shown = format!("select current_setting('{name}')");
        super::until(async || {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let query = sqlx::query_scalar(AssertSqlSafe(shown.clone()));
            let now: String = query.fetch_one(&mut connection).await.unwrap();
            now == value.trim_matches('\'')
        })
        .await;
        self.run(node, &[close]).await;
    }

    /// Changes something of the application's role, for sessions that begin from now on.
    pub async fn alter_role(&self, change: &str) {
        let alter = format!("alter role shoal_app {change}");
        let close = "select pg_terminate_backend(pid) from pg_stat_activity
            where usename = 'shoal_app'";
        self.run(&self.nodes()[0], &[&alter, close]).await;
    }

    /// Gives the PgBouncer before a node an order, by its console.
    pub async fn order(&self, node: &PostgresNode, order: &str) {
        let url = node.pooled_url(&self.postgres.topology().pgbouncer_admin, "pgbouncer");
        let mut console = PgConnection::connect(&url).await.unwrap();
        console.execute(AssertSqlSafe(order.to_owned())).await.unwrap();
    }
}

impl Report {
    fn of(&self, outcome: &str) -> Vec<&str> {
        let of = self.checks.iter().filter(|check| check.outcome == outcome);
        let names: BTreeSet<&str> = of.map(|check| check.check.as_str()).collect();
        names.into_iter().collect()
    }

    /// The checks that failed, each once.
    pub fn failed(&self) -> Vec<&str> {
        self.of("failed")
    }

    pub fn skipped(&self) -> Vec<&str> {
        self.of("skipped")
    }

    /// That this failed, and nothing else did.
    #[track_caller]
    pub fn expect_failed(&self, check: &str) {
        assert_eq!(self.failed(), [check], "{self:#?}");
        assert_eq!(self.code, 1, "{}", self.stderr);
        let failed = self.checks.iter().find(|one| one.outcome == "failed").unwrap();
        for told in [&failed.seen, &failed.why, &failed.mend] {
            assert!(!told.is_empty(), "{failed:?}");
        }
    }
}
