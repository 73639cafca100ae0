//! A database per test, cloned from the migrated template.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{topology, unique};

/// A fresh database with the current schema. It goes with the throw-away cluster.
pub struct Database {
    pub name: String,
}

impl Database {
    pub async fn create() -> Self {
        let name = unique("t");
        let mut admin = connect("postgres").await;
        let template = &topology().template_database;
        let create = format!("create database {name} template {template}");
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        // The machine that runs all tests at once is slower than any that serves: what is to be
        // proven is that requests wait for each other, not how fast they are.
        for limit in ["statement_timeout = '20s'", "lock_timeout = '10s'"] {
            let alter = format!("alter role shoal_app in database {name} set {limit}");
            admin.execute(AssertSqlSafe(alter)).await.unwrap();
        }
        admin.close().await.unwrap();
        Self { name }
    }

    /// A connection that may do anything: to look behind the API's back.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.name).await
    }

    /// Waits until the replicas show all that was committed so far.
    pub async fn replicated(&self) {
        let now = "select (pg_current_wal_lsn() - '0/0')::bigint";
        let behind = "select ($1 - (pg_last_wal_replay_lsn() - '0/0')::bigint)::bigint";
        let now: i64 = sqlx::query_scalar(now).fetch_one(&mut self.connect().await).await.unwrap();
        for replica in &topology().replicas {
            let url = replica.direct_url(&topology().superuser, "postgres");
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

async fn connect(database: &str) -> PgConnection {
    PgConnection::connect(&topology().superuser_url(database)).await.unwrap()
}
