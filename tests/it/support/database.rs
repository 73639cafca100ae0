//! A database per test, cloned from the migrated template.

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
        admin.close().await.unwrap();
        Self { name }
    }

    /// A connection that may do anything: to look behind the API's back.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.name).await
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
