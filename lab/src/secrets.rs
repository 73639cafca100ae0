//! Passwords and keys: made once per site, kept beside its data.
//!
//! They are random although the servers listen on loopback only: a superuser with a known password
//! would let every other user of the machine run commands as the servers' account.

use std::fs;
use std::path::Path;

use rand::RngExt;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::site::write_private;

/// The secrets of one site. Letters and digits only: they need no escaping in URLs, files or SQL.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) superuser: String,
    pub(crate) migrator: String,
    pub(crate) app: String,
    pub(crate) replication: String,
    pub(crate) pgbouncer: String,
    pub(crate) s3: String,
}

impl Secrets {
    /// Reads them, or makes them when the file is not there, unless data that `is_in_use` needs the old ones.
    pub(crate) fn load_or_create(path: &Path, is_in_use: bool) -> Result<Self> {
        if let Ok(text) = fs::read_to_string(path) {
            return serde_json::from_str(&text).map_err(|error| {
                Error::new(format!("{} is damaged: {error}", path.display()))
                    .way_out("`cargo lab up --fresh` starts anew, without the data")
            });
        }
        if is_in_use {
            return Err(Error::new(format!(
                "{} is gone, and with it the passwords of the databases beside it",
                path.display()
            ))
            .way_out("`cargo lab up --fresh` starts anew, without the data"));
        }
        let secrets = Self::random();
        let text =
            serde_json::to_string_pretty(&secrets).cannot(|| "describe the secrets".to_owned())?;
        write_private(path, &text)?;
        Ok(secrets)
    }

    fn random() -> Self {
        Self {
            superuser: password(),
            migrator: password(),
            app: password(),
            replication: password(),
            pgbouncer: password(),
            s3: password(),
        }
    }
}

/// 24 letters and digits have 142 bits.
fn password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect()
}
