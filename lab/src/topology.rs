//! What runs where: written by the lab, read by the integration tests.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::install::Binaries;
use crate::site::{Site, write_private};

/// The variable that tells the tests where the topology is described.
pub const LAB_TOPOLOGY: &str = "LAB_TOPOLOGY";
/// The database of `cargo lab up`.
pub const DATABASE: &str = "shoal";
/// The migrated and otherwise empty database that tests make theirs from.
pub const TEMPLATE_DATABASE: &str = "shoal_template";

/// Every server's address, and how to log in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Topology {
    /// The site's directory. Tests may keep what they write below it: see [`Topology::scratch_dir`].
    pub dir: PathBuf,
    /// Where the servers' programs are.
    pub binaries: Binaries,
    /// The primary.
    pub primary: PostgresNode,
    /// The streaming replicas.
    pub replicas: Vec<PostgresNode>,
    /// May do anything. Logs in to Postgres directly only.
    pub superuser: Login,
    /// Owns the databases and runs migrations. Logs in to Postgres directly only.
    pub migrator: Login,
    /// The API's role, without DDL. Logs in through PgBouncer, or directly.
    pub app: Login,
    /// PgBouncer's console: log in to the database `pgbouncer` at a pooler's port.
    pub pgbouncer_admin: Login,
    /// Redis; several URLs, parted by commas, are the nodes of a cluster.
    pub redis_url: String,
    /// The S3 server.
    pub s3: S3Account,
    /// The migrated and otherwise empty database that tests make theirs from.
    pub template_database: String,
}

/// One Postgres and the PgBouncer in front of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostgresNode {
    /// Its name in `cargo lab status`, and its `application_name` on the primary.
    pub name: String,
    /// Address of both.
    pub host: String,
    /// Postgres's port.
    pub port: u16,
    /// PgBouncer's port.
    pub pooler_port: u16,
}

/// A role of the databases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Letters and digits.
    pub password: String,
}

/// An account of the S3 server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct S3Account {
    /// `http://host:port`, for path-style requests.
    pub endpoint: String,
    /// A bucket that exists.
    pub bucket: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Any name does; both sides sign with it.
    pub region: String,
}

impl Topology {
    /// The topology that `cargo lab test` has started for this process.
    pub fn from_env() -> Result<Self> {
        let path = std::env::var_os(LAB_TOPOLOGY).ok_or_else(|| {
            Error::new(format!(
                "{LAB_TOPOLOGY} is not set, so there are no servers to test against"
            ))
            .way_out("run `cargo lab test`; it takes the arguments of `cargo test`")
        })?;
        Self::read(Path::new(&path))
    }

    /// Reads a description.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(format!("cannot read the topology {}: {error}", path.display()))
                .way_out("is the lab that wrote it still running?")
        })?;
        serde_json::from_str(&text).cannot(|| format!("understand the topology {}", path.display()))
    }

    /// Writes it into the site; only its owner may read it.
    pub(crate) fn write(&self, site: &Site) -> Result<PathBuf> {
        let path = site.dir().join("topology.json");
        let text =
            serde_json::to_string_pretty(self).cannot(|| "describe the topology".to_owned())?;
        write_private(&path, &text)?;
        Ok(path)
    }

    /// The API's URL of a database: the primary through its PgBouncer.
    #[must_use]
    pub fn app_url(&self, database: &str) -> String {
        self.primary.pooled_url(&self.app, database)
    }

    /// The API's URLs of the replicas, each through its PgBouncer.
    #[must_use]
    pub fn app_replica_urls(&self, database: &str) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.pooled_url(&self.app, database)).collect()
    }

    /// The migrator's URL of a database: the primary, directly.
    #[must_use]
    pub fn migrator_url(&self, database: &str) -> String {
        self.primary.direct_url(&self.migrator, database)
    }

    /// The superuser's URL of a database: the primary, directly.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        self.primary.direct_url(&self.superuser, database)
    }

    /// A directory for one test, removed with the site. Servers under another account can reach it.
    #[must_use]
    pub fn scratch_dir(&self, test: &str) -> PathBuf {
        self.dir.join("scratch").join(test)
    }
}

impl PostgresNode {
    /// The URL of a database on this Postgres itself.
    #[must_use]
    pub fn direct_url(&self, login: &Login, database: &str) -> String {
        login.url(&self.host, self.port, database)
    }

    /// The URL of a database through PgBouncer.
    #[must_use]
    pub fn pooled_url(&self, login: &Login, database: &str) -> String {
        login.url(&self.host, self.pooler_port, database)
    }
}

impl Login {
    fn url(&self, host: &str, port: u16, database: &str) -> String {
        format!("postgres://{}:{}@{host}:{port}/{database}", self.user, self.password)
    }
}

#[cfg(test)]
mod tests {
    use super::{Login, PostgresNode};

    #[test]
    fn the_pooler_and_postgres_have_different_urls() {
        let node = PostgresNode {
            name: "postgres-primary".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            pooler_port: 2,
        };
        let login = Login { user: "u".to_owned(), password: "p".to_owned() };
        assert_eq!(node.direct_url(&login, "d"), "postgres://u:p@127.0.0.1:1/d");
        assert_eq!(node.pooled_url(&login, "d"), "postgres://u:p@127.0.0.1:2/d");
    }
}
