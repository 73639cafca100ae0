//! Runs SQL with psql: the lab needs a few statements, not a driver.

use std::path::Path;
use std::process::Command;

use crate::error::Result;
use crate::run::output_of;
use crate::site::Site;

/// A database of a site, entered as the superuser unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Psql<'a> {
    site: &'a Site,
    port: u16,
    database: &'a str,
    user: &'a str,
    password: &'a str,
    /// Settings of the session; PgBouncer's console takes none.
    options: Option<&'a str>,
}

/// Notices say that something exists already, which is as it should be.
const QUIET: &str = "-c client_min_messages=warning";

impl<'a> Psql<'a> {
    pub(crate) fn new(site: &'a Site, port: u16, database: &'a str) -> Self {
        let password = &site.secrets.superuser;
        Self { site, port, database, user: "postgres", password, options: Some(QUIET) }
    }

    /// The console of the PgBouncer on `port`.
    pub(crate) fn of_pooler(site: &'a Site, port: u16) -> Self {
        let password = &site.secrets.pgbouncer;
        let (database, user) = ("pgbouncer", "pgbouncer");
        Self { site, port, database, user, password, options: None }
    }

    /// Enters as the owner of the databases instead.
    pub(crate) fn as_migrator(self) -> Self {
        Self { user: "shoal_migrator", password: &self.site.secrets.migrator, ..self }
    }

    /// Runs statements, each for itself, up to the first that fails. Answers the rows, unadorned.
    pub(crate) fn run(&self, sql: &str) -> Result<String> {
        output_of(&mut self.command(), sql, &format!("run SQL on the database `{}`", self.database))
    }

    /// Runs a file, with these variables in the environment.
    pub(crate) fn run_file(&self, file: &Path, env: &[(&str, &str)]) -> Result<String> {
        let mut command = self.command();
        command.arg("--file").arg(file).envs(env.iter().copied());
        output_of(
            &mut command,
            "",
            &format!("run {} on the database `{}`", file.display(), self.database),
        )
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.site.binaries.postgres_dir.join("psql"));
        command.args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--no-password",
            "--set=ON_ERROR_STOP=1",
        ]);
        match self.options {
            Some(options) => command.env("PGOPTIONS", options),
            None => command.env_remove("PGOPTIONS"),
        };
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string());
        command
            .env("PGUSER", self.user)
            .env("PGPASSWORD", self.password)
            .env("PGDATABASE", self.database);
        command
    }
}
