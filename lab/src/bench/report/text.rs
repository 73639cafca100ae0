//! The report as plain, aligned lines.

use std::fmt::Write;

use super::columns::{NOT_MEASURED, columns};
use super::{Report, grouped, number};
use crate::bench::figures::Table;
use crate::bench::targets::{Bound, Target};

/// Below this the scheduler's own work and the bench's reading of counters show.
const WORTH_TELLING: f64 = 0.05;

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    for table in &report.tables {
        text.push_str(&render_table(table));
        text.push('\n');
    }
    // Writing to a string cannot fail.
    if let Some(cold) = &report.cold_key {
        let _ = writeln!(
            text,
            "Cold product: {} requests at once over {} replicas, worst of {} tries: {} loads, {} look-ups missed, {} errors\n",
            cold.requests,
            cold.replicas,
            cold.tries,
            cold.loads.map_or("n/a".to_owned(), |count| grouped(count as i64)),
            cold.misses.map_or("n/a".to_owned(), |count| grouped(count as i64)),
            cold.errors
        );
    }
    if let Some(knee) = &report.knee {
        text.push_str(&super::knee::text(knee));
        text.push('\n');
    }
    if let Some(memory) = report.memory {
        let mib = |bytes: u64| number(bytes as f64 / f64::from(1 << 20));
        let (now, peak) = (mib(memory.resident), mib(memory.peak));
        let _ = writeln!(text, "Memory of the replica: {now} MiB resident, {peak} MiB at most\n");
    }
    text.push_str("Must reach\n");
    let rows = report.targets.iter().map(target_row).collect::<Vec<_>>();
    text.push_str(&aligned(&rows, &[true, false, false, true]));
    for warning in warnings(report) {
        let _ = write!(text, "\n{warning}\n");
    }
    text
}

/// What a reader must know before the figures are believed.
pub(super) fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let rows =
        || report.tables.iter().flat_map(|table| table.rows.iter().map(move |row| (table, row)));
    for (table, row) in rows().filter(|(_, row)| row.errors() > 0) {
        warnings.push(format!(
            "{}, {}: {} requests failed; its figures are of no use.",
            table.title,
            row.name,
            grouped(row.errors() as i64)
        ));
    }
    if report.knee.as_ref().is_some_and(|knee| knee.errors() > 0) {
        warnings.push("Rising concurrency: requests failed; its figures are of no use.".to_owned());
    }
    let disturbed = rows().filter_map(|(_, row)| row.typical()?.disturbed).fold(0.0, f64::max);
    if disturbed > WORTH_TELLING {
        warnings.push(format!(
            "Something else took up to {:.0} % of the measured core. On a quiet machine all figures are better, and requests per second much better; ratios change least.",
            disturbed * 100.0
        ));
    }
    warnings
}

fn render_table(table: &Table) -> String {
    let columns = columns(table);
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(columns.iter().map(|column| column.name.to_owned()));
    for (number, row) in table.rows.iter().enumerate() {
        let mut cells = vec![row.name.clone()];
        cells.extend(columns.iter().map(|column| column.cells[number].clone()));
        rows.push(cells);
    }
    let to_left: Vec<bool> = (0..rows[0].len()).map(|column| column == 0).collect();
    format!("{}: {}\n{}", table.title, table.about, aligned(&rows, &to_left))
}

fn target_row(target: &Target) -> Vec<String> {
    vec![
        target.what.to_owned(),
        target.value.map_or_else(|| "n/a".to_owned(), |value| with_unit(value, target.unit)),
        bound(target),
        match target.is_met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => NOT_MEASURED,
        }
        .to_owned(),
    ]
}

pub(super) fn bound(target: &Target) -> String {
    match target.bound {
        Bound::AtMost(bound) => format!("≤ {}", with_unit(bound, target.unit)),
        Bound::AtLeast(bound) => format!("≥ {}", with_unit(bound, target.unit)),
        Bound::ToKnow => NOT_MEASURED.to_owned(),
    }
}

pub(super) fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

/// Columns as wide as their widest cell; `to_left` says which begin flush left.
pub(super) fn aligned(rows: &[Vec<String>], to_left: &[bool]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..to_left.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), to_left) in row.iter().zip(&widths).zip(to_left) {
            let _ = match to_left {
                true => write!(line, "  {cell:<width$}"),
                false => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["µ".to_owned(), "1".to_owned()], vec!["ab".to_owned(), "10".to_owned()]];
        assert_eq!(aligned(&rows, &[true, false]), "  µ    1\n  ab  10\n");
    }
}
