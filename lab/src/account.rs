//! Which operating-system account the servers run as.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rustix::process::geteuid;

use crate::error::{Context, Error, Result};

/// The unprivileged account that a lab started by root gives its servers: Postgres and PgBouncer
/// refuse to run as root, and Debian's package creates this one.
const SERVICE_ACCOUNT: &str = "postgres";

/// An account to drop to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name, as `setpriv` wants it.
    pub name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account for the servers: `None` when the lab runs as an ordinary user, who can run them all.
    pub fn for_servers() -> Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let accounts =
            fs::read_to_string("/etc/passwd").cannot(|| "read /etc/passwd".to_owned())?;
        let found = accounts.lines().find_map(|line| parse(line, SERVICE_ACCOUNT));
        found.map(Some).ok_or_else(|| {
            Error::new(format!(
                "there is no account `{SERVICE_ACCOUNT}`, and Postgres refuses to run as root"
            ))
            .way_out("apt-get install postgresql creates it")
        })
    }

    /// Makes the account the owner of one file or directory.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .cannot(|| format!("give {} to the account `{}`", path.display(), self.name))
    }

    /// Whether the account can reach what is in `dir`: every directory on the way must let it pass.
    #[must_use]
    pub fn can_reach(&self, dir: &Path) -> bool {
        dir.ancestors().all(|ancestor| match fs::metadata(ancestor) {
            Ok(found) => may_pass(found.mode(), found.uid() == self.uid, found.gid() == self.gid),
            // What does not exist yet is created by the lab, with a mode that lets everybody pass.
            Err(_) => true,
        })
    }
}

/// A line of `/etc/passwd`: name, password, user, group and more, parted by colons.
fn parse(line: &str, name: &str) -> Option<Account> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { name: name.to_owned(), uid, gid })
}

/// Unix looks at one class of permission bits only: owner, else group, else others.
fn may_pass(mode: u32, is_owner: bool, is_group: bool) -> bool {
    let bit = match (is_owner, is_group) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    mode & bit != 0
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::{may_pass, parse};

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let account = parse("postgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash", "postgres");
        let account = account.expect("it is the line of that account");
        assert_eq!((account.uid, account.gid), (101, 104));
        assert_eq!(parse("postgres2:x:1:1::/:/bin/sh", "postgres"), None);
    }

    #[test]
    fn a_private_home_stops_everybody_else() {
        assert!(may_pass(0o700, true, false));
        assert!(!may_pass(0o700, false, false));
        assert!(!may_pass(0o700, false, true));
    }

    #[test]
    fn the_first_class_that_matches_decides() {
        assert!(!may_pass(0o011, true, true));
        assert!(!may_pass(0o701, false, true));
        assert!(may_pass(0o755, false, false));
    }
}
