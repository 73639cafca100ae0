//! A database per test, cloned from the migrated template.

use std::time::Duration;

use lab::{
    postgres::OwnPostgres,
    topology::{DATABASE, Topology},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{topology, unique};

/// A fresh database with the current schema. It goes with the throw-away cluster.
pub struct Database {
    pub name: String,
    /// Where it is.
    pub topology: Topology,
}

impl Database {
    /// One on the primary that all tests share.
    pub async fn create() -> Self {
        let database = Self { name: unique("t"), topology: topology().clone() };
        let mut admin = database.admin().await;
        let template = &topology().template_database;
        // Whose functions make partitions.
        let owner = &topology().migrator.user;
        let create = format!("create database {} template {template} owner {owner}", database.name);
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        database.be_patient(&mut admin).await;
        admin.close().await.unwrap();
        database
    }

    /// The only one of a primary of the test's own.
    pub async fn of(postgres: &OwnPostgres) -> Self {
        let database = Self { name: DATABASE.to_owned(), topology: postgres.topology().clone() };
        let mut admin = database.admin().await;
        database.be_patient(&mut admin).await;
        admin.close().await.unwrap();
        database
    }

    async fn be_patient(&self, admin: &mut PgConnection) {
        // The machine that runs all tests at once is slower than any that serves: what is to be
        // proven is that requests wait for each other, not how fast they are.
        for limit in ["statement_timeout = '20s'", "lock_timeout = '10s'"] {
            let alter = format!("alter role shoal_app in database {} set {limit}", self.name);
            admin.execute(AssertSqlSafe(alter)).await.unwrap();
        }
    }

    /// From now on nobody waits for a lock for longer than a second, as where the service runs, for
    /// tests of what happens then. Connections that are open are closed.
    pub async fn be_impatient(&self) {
        let mut admin = self.connect().await;
        let alter =
            format!("alter role shoal_app in database {} set lock_timeout = '1s'", self.name);
        admin.execute(AssertSqlSafe(alter)).await.unwrap();
        let close = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and usename = 'shoal_app'";
        admin.execute(close).await.unwrap();
    }

    async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.topology.superuser_url("postgres")).await.unwrap()
    }

    /// A connection that may do anything: to look behind the API's back.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.topology.superuser_url(&self.name)).await.unwrap()
    }

    /// Waits until the replicas show all that was committed so far.
    pub async fn replicated(&self) {
        let now = "select (pg_current_wal_lsn() - '0/0')::bigint";
        let behind = "select ($1 - (pg_last_wal_replay_lsn() - '0/0')::bigint)::bigint";
        let now: i64 = sqlx::query_scalar(now).fetch_one(&mut self.connect().await).await.unwrap();
        for replica in &self.topology.replicas {
            let url = replica.direct_url(&self.topology.superuser, "postgres");
            let mut replica = PgConnection::connect(&url).await.unwrap();
            let behind = async |replica: &mut PgConnection| -> i64 {
                sqlx::query_scalar(behind).bind(now).fetch_one(replica).await.unwrap()
            };
            while behind(&mut replica).await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// One number, such as a count or a sum.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }
}
