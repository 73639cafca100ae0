//! The columns of a workload's table, on the terminal and on the page. What none of its rows has is left out.

use super::{grouped, number, time};
use crate::bench::figures::{Kind, Row, Table};

pub(super) const NOT_MEASURED: &str = "-";

/// A column without the names of the rows.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// One a row.
    pub(super) cells: Vec<String>,
}

/// All that have something to tell.
pub(super) fn columns(table: &Table) -> Vec<Column> {
    let service = table.row(Kind::Service);
    let p50 = |row: &Row| row.typical()?.p50_us.map(time);
    let p99 = |row: &Row| row.typical()?.p99_us.map(time);
    let hits = |row: &Row| {
        let rate = row.typical()?.hit_rate?;
        Some(format!("{:.1} %", rate * 100.0))
    };
    let all = [
        column(table, "req/s", |row| row.per_second().map(number)),
        column(table, "p50", p50),
        column(table, "p99", p99),
        column(table, "CPU/req", |row| row.cpu_us().map(time)),
        column(table, "shoal has", |row| ratio(row, service?)),
        column(table, "cache hits", hits),
        column(table, "round trips", |row| row.typical()?.round_trips.map(number)),
        column(table, "of the order", |row| row.typical()?.statements.map(number)),
        column(table, "errors", errors),
    ];
    all.into_iter().flatten().collect()
}

fn column(
    table: &Table,
    name: &'static str,
    cell: impl Fn(&Row) -> Option<String>,
) -> Option<Column> {
    let cells: Vec<Option<String>> = table.rows.iter().map(cell).collect();
    let cells_or_dash = |cell: Option<String>| cell.unwrap_or_else(|| NOT_MEASURED.to_owned());
    cells
        .iter()
        .any(Option::is_some)
        .then(|| Column { name, cells: cells.into_iter().map(cells_or_dash).collect() })
}

fn errors(row: &Row) -> Option<String> {
    Some(match row.errors() {
        0 => "0".to_owned(),
        count => format!("{} !", grouped(count as i64)),
    })
}

/// How the service compares: by CPU with a server, by requests per second with a client.
fn ratio(row: &Row, service: &Row) -> Option<String> {
    if row.kind == Kind::Service {
        return None;
    }
    match (service.cpu_us(), row.cpu_us()) {
        (Some(own), Some(other)) if other > 0.0 => Some(format!("{:.2} × its CPU", own / other)),
        _ => Some(format!("{:.2} × its req/s", service.per_second()? / row.per_second()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::columns;
    use crate::bench::figures::{Kind, Row, Sample, Table};

    #[test]
    fn errors_are_marked_and_what_nobody_has_is_left_out() {
        let sample = Sample { seconds: 1.0, requests: 10, ..Sample::default() };
        let mut own = Row::new("shoal", Kind::Service);
        own.samples = vec![Sample { errors: 3, p50_us: Some(5.0), ..sample.clone() }];
        let mut other = Row::new("pgbench", Kind::Pgbench);
        other.samples = vec![Sample { requests: 5, ..sample }];
        let rows = vec![own, other];
        let columns = columns(&Table { name: "", title: "", about: String::new(), rows });
        let shown: Vec<_> =
            columns.iter().map(|c| (c.name, c.cells[0].as_str(), c.cells[1].as_str())).collect();
        assert_eq!(
            shown,
            [
                ("req/s", "10.0", "5.00"),
                ("p50", "5.00 µs", "-"),
                ("shoal has", "-", "2.00 × its req/s"),
                ("errors", "3 !", "0"),
            ]
        );
    }
}
