//! What the service must reach, and whether it does.

use serde::Serialize;

use super::cold_key::ColdKey;
use super::figures::{Kind, Row, Table};
use super::proc::Memory;

/// One line of the table "must reach".
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Target {
    /// What the figure is.
    pub(super) what: &'static str,
    pub(super) bound: Bound,
    /// `None` if it was not measured, or not without errors.
    pub(super) value: Option<f64>,
    /// What stands behind the figure.
    pub(super) unit: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// None: it is told beside the others.
    ToKnow,
}

impl Target {
    /// Whether it is reached; `None` if it was not measured, or nothing is asked for.
    pub(super) fn is_met(&self) -> Option<bool> {
        let value = self.value?;
        match self.bound {
            Bound::AtMost(bound) => Some(value <= bound),
            Bound::AtLeast(bound) => Some(value >= bound),
            Bound::ToKnow => None,
        }
    }
}

/// Factors on the CPU time of the bare handler that each is held against.
pub(super) const PRODUCT_FACTOR: f64 = 1.6;
pub(super) const LIST_FACTOR: f64 = 1.5;
pub(super) const ORDER_FACTOR: f64 = 1.2;

/// All targets, for what was measured.
pub(super) fn targets(
    tables: &[Table],
    cold_key: Option<&ColdKey>,
    memory: Option<Memory>,
) -> Vec<Target> {
    // A refusal is cheap: what failed in part proves nothing.
    let row = |table: &str, kind| {
        let table = tables.iter().find(|found| found.name == table)?;
        table.row(kind).filter(|row| row.errors() == 0)
    };
    let cpu = |table, kind| row(table, kind)?.cpu_us();
    let rate = |table, kind| row(table, kind)?.per_second();
    let factor = |part: Option<f64>, of: Option<f64>| Some(part? / of.filter(|of| *of > 0.0)?);
    let target = |what, bound, value, unit| Target { what, bound, value, unit };
    vec![
        target(
            "cached product: CPU per request of a bare handler with one Redis GET",
            Bound::AtMost(PRODUCT_FACTOR),
            factor(cpu("product", Kind::Service), cpu("product", Kind::BareRedis)),
            "×",
        ),
        target(
            "cached product: requests per second on one core",
            Bound::AtLeast(45_000.0),
            rate("product", Kind::Service),
            "/s",
        ),
        target(
            "list of 20: CPU per request of a bare handler with one Redis GET of the same bytes",
            Bound::AtMost(LIST_FACTOR),
            factor(cpu("list", Kind::Service), cpu("list", Kind::BareRedis)),
            "×",
        ),
        target(
            "list of 20: the same, of a bare handler with one Redis GET of one product",
            Bound::ToKnow,
            factor(cpu("list", Kind::Service), cpu("product", Kind::BareRedis)),
            "×",
        ),
        target(
            "own order: CPU per request of a bare handler with the query by sqlx",
            Bound::AtMost(ORDER_FACTOR),
            factor(cpu("order", Kind::Service), cpu("order", Kind::BareQuery)),
            "×",
        ),
        target(
            "place an order: round trips to Postgres",
            Bound::AtMost(5.0),
            row("place", Kind::Service).and_then(statements),
            "",
        ),
        target(
            "place an order: orders per second of pgbench in nine statements",
            Bound::AtLeast(1.3),
            factor(rate("place", Kind::Service), rate("place", Kind::Pgbench)),
            "×",
        ),
        target(
            "1,000 requests for one cold product over 3 replicas: loads",
            Bound::AtMost(1.0),
            cold_key.filter(|cold| cold.errors == 0).and_then(|cold| cold.loads),
            "",
        ),
        target(
            "resident memory of the loaded replica",
            Bound::AtMost(80.0),
            memory.map(|memory| memory.resident as f64 / f64::from(1 << 20)),
            "MiB",
        ),
    ]
}

/// Those of the order itself, to a hundredth: one that fails half-way has some and places nothing. PgBouncer
/// counts more, since the replica looks at sessions and at the log's position as time goes by.
fn statements(row: &Row) -> Option<f64> {
    Some((row.typical()?.statements? * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::{Bound, Target, targets};
    use crate::bench::figures::{Kind, Row, Sample, Table};
    use crate::bench::proc::Memory;

    fn row(kind: Kind, requests: u64) -> Row {
        let mut row = Row::new("row", kind);
        row.samples =
            vec![Sample { seconds: 1.0, requests, cpu_seconds: Some(1.0), ..Sample::default() }];
        row
    }

    fn value<'a>(targets: &'a [Target], words: &str) -> &'a Target {
        targets.iter().find(|target| target.what.contains(words)).expect("there is such a target")
    }

    #[test]
    fn the_service_is_held_against_its_own_baseline() {
        let rows = vec![row(Kind::Service, 50_000), row(Kind::BareRedis, 100_000)];
        let table = Table { name: "product", title: "", about: String::new(), rows };
        let all = targets(&[table], None, Some(Memory { resident: 81 << 20, peak: 0 }));
        let cpu = value(&all, "cached product: CPU");
        assert!((cpu.value.expect("both are there") - 2.0).abs() < 1e-9);
        assert_eq!(cpu.is_met(), Some(false));
        assert_eq!(value(&all, "cached product: requests").is_met(), Some(true));
        assert_eq!(value(&all, "resident memory").is_met(), Some(false));
        assert_eq!(value(&all, "own order").is_met(), None);
    }

    #[test]
    fn a_list_is_held_against_the_same_bytes() {
        let table = |name, rows| Table { name, title: "", about: String::new(), rows };
        let product = table("product", vec![row(Kind::BareRedis, 100_000)]);
        let list = table("list", vec![row(Kind::Service, 50_000), row(Kind::BareRedis, 75_000)]);
        let all = targets(&[product, list], None, None);
        let same_bytes = value(&all, "GET of the same bytes");
        assert_eq!((same_bytes.value, same_bytes.is_met()), (Some(1.5), Some(true)));
        let one_product = value(&all, "GET of one product");
        assert_eq!((one_product.value, one_product.is_met()), (Some(2.0), None));
    }

    #[test]
    fn a_row_with_errors_reaches_nothing() {
        let mut own = row(Kind::Service, 50_000);
        own.samples[0].errors = 1;
        let table = Table { name: "product", title: "", about: String::new(), rows: vec![own] };
        let all = targets(&[table], None, None);
        assert_eq!(value(&all, "cached product: requests").is_met(), None);
    }

    #[test]
    fn a_bound_includes_its_value() {
        let target = |bound| Target { what: "", bound, value: Some(1.0), unit: "" };
        assert_eq!(target(Bound::AtMost(1.0)).is_met(), Some(true));
        assert_eq!(target(Bound::AtLeast(1.0)).is_met(), Some(true));
        assert_eq!(target(Bound::AtLeast(1.1)).is_met(), Some(false));
        assert_eq!(target(Bound::ToKnow).is_met(), None);
    }
}
