//! The profile that is shipped for commits that wait for a standby.

use std::fs;

use super::{Postgres, READY_WITHIN};
use crate::error::{Context, Result};
use crate::psql::Psql;
use crate::site::{repository, write_private};
use crate::template::render;

/// What the profile adds to the configuration.
const PROFILE: &str = "postgres/synchronous.conf";

/// For primaries only.
impl Postgres {
    /// Starts it anew with the profile, waiting for any of the standbys of these names. Returns once all of
    /// them follow and count.
    pub fn make_synchronous(&mut self, standbys: &[&str]) -> Result<()> {
        let profile = repository().join(PROFILE);
        let profile = fs::read_to_string(&profile).cannot(|| format!("read {PROFILE}"))?;
        let names: Vec<String> = standbys.iter().map(|name| format!("\"{name}\"")).collect();
        let profile = render(&profile, &[("STANDBYS", &names.join(", "))])?;
        let path = self.site.etc(&format!("{}.conf", self.process.name()));
        let config = fs::read_to_string(&path).cannot(|| format!("read {}", path.display()))?;
        write_private(&path, &format!("{config}{profile}"))?;
        self.site.own(&path)?;
        // Told to reload, it would commit some more without waiting.
        self.process.restart()?;
        self.wait_until_ready()?;
        let (site, port) = (&self.site, self.port.number());
        let question = "select count(*) from pg_stat_replication where sync_state = 'quorum'";
        let expected = standbys.len().to_string();
        let all_count =
            || Psql::new(site, port, "postgres").run(question).is_ok_and(|count| count == expected);
        self.process.wait_until(READY_WITHIN, all_count)
    }
}
