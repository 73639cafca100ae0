//! The schema: how it is migrated, and whether it is new enough to serve.
//!
//! Migrations run only by `shoal migrate`, a step of the deployment, never at start-up: of many
//! replicas starting at once none may hold the lock that the others wait for.

use anyhow::Context;
use secrecy::SecretString;
use sqlx::{Connection, PgConnection, migrate::Migrator};

use super::{Conn, Error};

/// Every migration under `migrations/`, compiled in.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Applies what is missing, over a direct connection (PgBouncer would break the session lock).
///
/// # Errors
/// The database cannot be reached, or a migration failed; it was rolled back.
pub async fn migrate(direct_url: &SecretString) -> anyhow::Result<()> {
    let options = super::connect_options(direct_url)?;
    let mut connection = PgConnection::connect_with(&options)
        .await
        .context("cannot connect to DATABASE_DIRECT_URL")?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .context("a migration failed and was rolled back; mend it and run this again")?;
    connection.close().await?;
    Ok(())
}

/// The version this build needs: that of its newest migration.
pub fn required_version() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// The version the database is at; 0 when it was never migrated.
///
/// # Errors
/// The database cannot be reached.
pub async fn version(conn: &mut Conn) -> Result<i64, Error> {
    let version =
        sqlx::query_scalar!("select coalesce(max(version), 0) from _sqlx_migrations where success")
            .fetch_one(conn)
            .await;
    match version {
        Ok(version) => Ok(version.unwrap_or(0)),
        // 42P01: the table is not there yet.
        Err(error)
            if error
                .as_database_error()
                .is_some_and(|error| error.code().as_deref() == Some("42P01")) =>
        {
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}
