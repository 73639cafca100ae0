//! Reports as CSV (RFC 4180), for spreadsheets.

use std::borrow::Cow;

use bytes::Bytes;

use super::model::{DailySales, GroupBy, ProductSales, SalesRow};

pub(super) const CONTENT_TYPE: &str = "text/csv; charset=utf-8; header=present";

/// The line of names that a report begins with.
pub(super) fn head(group_by: GroupBy) -> Bytes {
    let columns: &[&str] = match group_by {
        GroupBy::Day => &["day", "currency", "orders", "units", "total_amount"],
        GroupBy::Product => {
            &["product_id", "sku", "name", "currency", "orders", "units", "total_amount"]
        }
    };
    lines([columns.iter().map(|name| Cow::from(*name)).collect()])
}

pub(super) fn sales<'r>(rows: impl IntoIterator<Item = &'r SalesRow>) -> Bytes {
    lines(rows.into_iter().map(|row| match row {
        SalesRow::Day(row) => day(row),
        SalesRow::Product(row) => product(row),
    }))
}

pub(super) fn products<'r>(rows: impl IntoIterator<Item = &'r ProductSales>) -> Bytes {
    lines(rows.into_iter().map(product))
}

type Cells<'r> = Vec<Cow<'r, str>>;

fn day(row: &DailySales) -> Cells<'_> {
    let mut cells = vec![row.day.to_string().into(), text(&row.currency)];
    cells.extend(numbers(row.orders, row.units, row.total_amount));
    cells
}

fn product(row: &ProductSales) -> Cells<'_> {
    let mut cells = vec![
        row.product_id.to_string().into(),
        text(row.sku.as_deref().unwrap_or_default()),
        text(row.name.as_deref().unwrap_or_default()),
        text(&row.currency),
    ];
    cells.extend(numbers(row.orders, row.units, row.total_amount));
    cells
}

fn numbers<'r>(orders: i64, units: i64, total_amount: i64) -> [Cow<'r, str>; 3] {
    [orders, units, total_amount].map(|number| number.to_string().into())
}

/// A spreadsheet runs what begins like a formula: a quote before it makes it a text (OWASP, CSV
/// injection). Names of products are anybody's who may write them.
fn text(value: &str) -> Cow<'_, str> {
    if value.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        format!("'{value}").into()
    } else {
        value.into()
    }
}

fn lines<'r>(rows: impl IntoIterator<Item = Cells<'r>>) -> Bytes {
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(vec![]);
    for row in rows {
        // To memory, and every line has as many cells: this cannot fail.
        let _ = writer.write_record(row.iter().map(|cell| cell.as_bytes()));
    }
    writer.into_inner().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        let row = |name: &str| ProductSales {
            product_id: uuid::Uuid::nil(),
            sku: Some("A-1".to_owned()),
            name: Some(name.to_owned()),
            currency: "EUR".to_owned(),
            orders: 1,
            units: 2,
            total_amount: 300,
        };
        for (name, cell) in [
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-1+1", "'-1+1"),
            ("a, b", "\"a, b\""),
            ("Plain - name", "Plain - name"),
        ] {
            let line = String::from_utf8(products([&row(name)]).to_vec()).unwrap();
            let nil = "00000000-0000-0000-0000-000000000000";
            assert_eq!(line, format!("{nil},A-1,{cell},EUR,1,2,300\r\n"));
        }
    }
}
