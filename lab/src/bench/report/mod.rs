//! Tells what was measured.

mod chart;
mod columns;
mod html;
mod knee;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cold_key::ColdKey;
use super::figures::{Row, Table};
use super::knee::Knee;
use super::machine::Machine;
use super::proc::Memory;
use super::targets::Target;
use crate::error::{Context, Result};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(super) machine: Machine,
    /// Of each measurement.
    pub(super) seconds: u64,
    pub(super) rounds: u32,
    pub(super) tables: Vec<Table>,
    pub(super) cold_key: Option<ColdKey>,
    pub(super) knee: Option<Knee>,
    /// Of the replica, after all of it.
    pub(super) memory: Option<Memory>,
    pub(super) targets: Vec<Target>,
}

impl Report {
    /// Whether any request failed.
    pub(crate) fn has_errors(&self) -> bool {
        let rows = self.tables.iter().flat_map(|table| &table.rows);
        rows.map(Row::errors).sum::<u64>() > 0
            || self.cold_key.as_ref().is_some_and(|cold| cold.errors > 0)
            || self.knee.as_ref().is_some_and(|knee| knee.errors() > 0)
    }

    /// For a terminal, and just as well for the log of a build server.
    pub(crate) fn text(&self) -> String {
        text::render(self)
    }

    /// Writes `bench.json` and `bench.html` into `dir`. Answers their paths.
    pub(crate) fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        fs::create_dir_all(dir).cannot(|| format!("create {}", dir.display()))?;
        let (json, html) = (dir.join("bench.json"), dir.join("bench.html"));
        let figures =
            serde_json::to_string_pretty(self).cannot(|| "describe the figures".to_owned())?;
        for (path, text) in [(&json, figures), (&html, html::render(self))] {
            fs::write(path, text).cannot(|| format!("write {}", path.display()))?;
        }
        Ok([json, html])
    }
}

/// Digits as a reader wants them: three that matter, thousands apart.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => grouped(value.round() as i64),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(crate) fn grouped(value: i64) -> String {
    let digits = value.abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

/// A time in the unit that suits it.
pub(crate) fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1_000.0 => format!("{} µs", number(us)),
        us if us < 1_000_000.0 => format!("{} ms", number(us / 1e3)),
        us => format!("{} s", number(us / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::{number, time};

    #[test]
    fn numbers_have_three_digits_that_matter() {
        for (value, text) in [
            (0.456, "0.46"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (1234.5, "1,235"),
            (-1_234_567.0, "-1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn times_have_their_unit() {
        assert_eq!(time(12.0), "12.0 µs");
        assert_eq!(time(1_500.0), "1.50 ms");
        assert_eq!(time(2e6), "2.00 s");
    }
}
