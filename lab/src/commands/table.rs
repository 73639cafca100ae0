//! The table of what runs where, as `up` prints it and `status` reads it again.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::process::{Identity, Process};

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    address: String,
    identity: Option<Identity>,
    pub(super) log: PathBuf,
}

impl Row {
    pub(super) fn new(port: u16, process: &Process) -> Self {
        Self {
            name: process.name().to_owned(),
            address: format!("127.0.0.1:{port}"),
            identity: Identity::of(process.pid()),
            log: process.log().to_owned(),
        }
    }

    fn pid(&self) -> String {
        match &self.identity {
            Some(identity) if identity.is_alive() => identity.pid.to_string(),
            _ => "ended".to_owned(),
        }
    }
}

/// The rows as text. A server that has ended is shown as such.
pub(super) fn render(rows: &[Row]) -> String {
    let longest = |width: fn(&Row) -> usize| rows.iter().map(width).max().unwrap_or_default();
    let (names, addresses) = (longest(|row| row.name.len()), longest(|row| row.address.len()));
    let mut text = format!("  {:names$}  {:addresses$}  {:>7}  LOG\n", "NAME", "ADDRESS", "PID");
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:names$}  {:addresses$}  {:>7}  {}",
            row.name,
            row.address,
            row.pid(),
            row.log.display()
        );
    }
    text
}

/// Keeps the rows for `status` and `logs`.
pub(super) fn save(dir: &Path, rows: &[Row]) -> Result<()> {
    let path = dir.join("table.json");
    let text = serde_json::to_string_pretty(rows).cannot(|| "describe the servers".to_owned())?;
    fs::write(&path, text).cannot(|| format!("write {}", path.display()))
}

/// Forgets the rows of an earlier run.
pub(super) fn clear(dir: &Path) {
    // There are none the first time.
    let _ = fs::remove_file(dir.join("table.json"));
}

/// The rows of the lab that runs or ran last; none if it never got that far.
pub(super) fn load(dir: &Path) -> Vec<Row> {
    let text = fs::read_to_string(dir.join("table.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Row, render};

    #[test]
    fn columns_line_up_and_an_ended_server_is_shown_as_such() {
        let row = |name: &str, address: &str| Row {
            name: name.to_owned(),
            address: address.to_owned(),
            identity: None,
            log: "/log".into(),
        };
        let text = render(&[row("s3", "127.0.0.1:19000"), row("postgres-primary", "127.0.0.1:1")]);
        let columns: Vec<_> =
            text.lines().map(|line| line.find("/log").or(line.find("LOG"))).collect();
        assert!(columns.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_some()), "{text}");
        assert_eq!(text.matches("ended").count(), 2);
    }
}
