//! The report as plain, aligned lines.

use std::fmt::Write;

use super::{Report, number, time};
use crate::bench::figures::{Kind, Row, Table};
use crate::bench::targets::{Bound, Target};

const NOT_MEASURED: &str = "-";
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
            cold.loads.map_or("n/a".to_owned(), number_of_things),
            cold.misses.map_or("n/a".to_owned(), number_of_things),
            cold.errors
        );
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
            number_of_things(row.errors() as f64)
        ));
    }
    let disturbed =
        rows().filter_map(|(_, row)| row.worst(|sample| sample.disturbed)).fold(0.0, f64::max);
    if disturbed > WORTH_TELLING {
        warnings.push(format!(
            "Something else took up to {:.0} % of the measured core: requests per second and latencies are worse than they would be, CPU per request hardly.",
            disturbed * 100.0
        ));
    }
    warnings
}

fn render_table(table: &Table) -> String {
    let mut rows = vec![
        ["", "req/s", "p50", "p99", "CPU µs/req", "shoal ÷", "hit rate", "trips/req", "errors"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let service = table.row(Kind::Service);
    rows.extend(table.rows.iter().map(|row| cells(row, service)));
    let columns: Vec<bool> = (0..rows[0].len()).map(|column| column == 0).collect();
    format!("{}: {}\n{}", table.title, table.about, aligned(&rows, &columns))
}

fn cells(row: &Row, service: Option<&Row>) -> Vec<String> {
    let shown = |value: Option<f64>, show: fn(f64) -> String| {
        value.map_or_else(|| NOT_MEASURED.to_owned(), show)
    };
    let errors = match row.errors() {
        0 => "0".to_owned(),
        count => format!("{} !", number_of_things(count as f64)),
    };
    vec![
        row.name.clone(),
        shown(row.per_second(), number),
        shown(row.middle(|sample| sample.p50_us), time),
        shown(row.middle(|sample| sample.p99_us), time),
        shown(row.cpu_us(), number),
        service.and_then(|service| ratio(row, service)).unwrap_or_else(|| NOT_MEASURED.to_owned()),
        shown(row.middle(|sample| sample.hit_rate), |rate| format!("{:.1} %", rate * 100.0)),
        shown(row.middle(|sample| sample.round_trips), number),
        errors,
    ]
}

/// How the service compares: by CPU with a server, by requests per second with a client.
pub(super) fn ratio(row: &Row, service: &Row) -> Option<String> {
    if row.kind == Kind::Service {
        return None;
    }
    match (service.cpu_us(), row.cpu_us()) {
        (Some(own), Some(other)) if other > 0.0 => Some(format!("{:.2} × CPU", own / other)),
        _ => Some(format!("{:.2} × req/s", service.per_second()? / row.per_second()?)),
    }
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
    }
}

pub(super) fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value)).trim_end().to_owned()
}

pub(super) fn number_of_things(count: f64) -> String {
    super::grouped(count as i64)
}

/// Columns as wide as their widest cell; `to_left` says which begin flush left.
fn aligned(rows: &[Vec<String>], to_left: &[bool]) -> String {
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
    use super::{aligned, render_table};
    use crate::bench::figures::{Kind, Row, Sample, Table};

    #[test]
    fn columns_line_up() {
        let rows = [vec!["µ".to_owned(), "1".to_owned()], vec!["ab".to_owned(), "10".to_owned()]];
        assert_eq!(aligned(&rows, &[true, false]), "  µ    1\n  ab  10\n");
    }

    #[test]
    fn errors_are_marked_and_what_is_missing_is_a_dash() {
        let mut row = Row::new("shoal", Kind::Service);
        row.samples = vec![Sample { seconds: 1.0, requests: 2, errors: 3, ..Sample::default() }];
        let table = Table { name: "product", title: "T", about: String::new(), rows: vec![row] };
        let text = render_table(&table);
        assert!(text.contains("3 !"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.contains(" - ")), "{text}");
    }
}
