//! The report as one page that needs nothing else.

use std::fmt::Write;

use super::chart::{Bar, Mark, bars};
use super::columns::columns;
use super::text::{bound, warnings, with_unit};
use super::{Report, grouped, knee, number};
use crate::bench::figures::{Kind, Row, Table};
use crate::bench::targets::{Bound, LIST_FACTOR, ORDER_FACTOR, PRODUCT_FACTOR, Target};
use crate::page::{escape, whole};

pub(super) fn render(report: &Report) -> String {
    let mut page = introduction(report);
    for warning in warnings(report) {
        let _ = writeln!(page, "<p class=\"warning\">{}</p>", escape(&warning));
    }
    page.push_str(&targets(&report.targets));
    for table in &report.tables {
        page.push_str(&section(table));
    }
    page.push_str(&cold_key(report));
    page.push_str(&report.knee.as_ref().map(knee::section).unwrap_or_default());
    page.push_str(&machine(report));
    whole("Shoal bench", "What a request costs", &page)
}

fn introduction(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "<p class=\"lead\">One replica of the service with all of its layers, pinned to one core, side by side on \
         that core with what the same answer costs without it: bare axum handlers, and clients that do \
         nothing else. Each contender ran for {} s in each of {} rounds, in turns; the figures are \
         those of the one in the middle.</p>\n<p class=\"facts\">{} · {} · {}</p>\n",
        report.seconds,
        report.rounds,
        escape(&machine.date),
        escape(&machine.processor),
        escape(machine.revision.as_deref().unwrap_or("unknown revision")),
    )
}

fn targets(targets: &[Target]) -> String {
    let mut html = String::from(
        "<section>\n<h2>Must reach</h2>\n<table class=\"targets\">\n\
         <tr><th></th><th>measured</th><th>target</th><th></th></tr>\n",
    );
    for target in targets {
        let (class, word) = match target.is_met() {
            Some(true) => ("met", "reached"),
            Some(false) => ("missed", "missed"),
            None if target.bound == Bound::ToKnow => ("unknown", "to know"),
            None => ("unknown", "not measured"),
        };
        let value = target.value.map_or_else(|| "–".to_owned(), |v| with_unit(v, target.unit));
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td><span class=\"{class}\">{word}</span></td></tr>",
            escape(target.what),
            escape(&value),
            escape(&bound(target))
        );
    }
    html.push_str("</table>\n</section>\n");
    html
}

fn section(table: &Table) -> String {
    let chart = |title, figure: fn(&Row) -> Option<f64>, unit: &str, mark: Option<Mark>| {
        let all: Vec<Bar> = table
            .rows
            .iter()
            .filter_map(|row| {
                let value = figure(row)?;
                let is_service = row.kind == Kind::Service;
                let figure = format!("{} {unit}", number(value)).trim_end().to_owned();
                Some(Bar { label: row.name.clone(), value, figure, is_service })
            })
            .collect();
        bars(title, &all, mark.as_ref())
    };
    let mut html = format!(
        "<section>\n<h2>{}</h2>\n<p class=\"about\">{}</p>\n",
        escape(table.title),
        escape(&table.about)
    );
    html.push_str(&chart("CPU per request of the server", Row::cpu_us, "µs", cpu_mark(table)));
    html.push_str(&chart("Requests per second", Row::per_second, "", rate_mark(table)));
    html.push_str(&figures(table));
    html.push_str("</section>\n");
    html
}

fn figures(table: &Table) -> String {
    let columns = columns(table);
    let heads: String =
        columns.iter().map(|column| format!("<th>{}</th>", escape(column.name))).collect();
    let mut html = format!("<table>\n<tr><th></th>{heads}</tr>\n");
    for (number, row) in table.rows.iter().enumerate() {
        let class = if row.kind == Kind::Service { " class=\"own\"" } else { "" };
        let _ = write!(html, "<tr{class}><td>{}</td>", escape(&row.name));
        for column in &columns {
            let _ = write!(html, "<td class=\"n\">{}</td>", escape(&column.cells[number]));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
    html
}

/// Where the service's bar has to end.
fn cpu_mark(table: &Table) -> Option<Mark> {
    let (factor, baseline) = match table.name {
        "product" => (PRODUCT_FACTOR, table.row(Kind::BareRedis)),
        "list" => (LIST_FACTOR, table.row(Kind::BareRedis)),
        "order" => (ORDER_FACTOR, table.row(Kind::BareQuery)),
        _ => return None,
    };
    let value = factor * baseline?.cpu_us()?;
    Some(Mark { value, text: format!("target: {} µs or less", number(value)) })
}

fn rate_mark(table: &Table) -> Option<Mark> {
    let value = match table.name {
        "product" => 45_000.0,
        "place" => 1.3 * table.row(Kind::Pgbench)?.per_second()?,
        _ => return None,
    };
    Some(Mark { value, text: format!("target: {} or more", number(value)) })
}

fn cold_key(report: &Report) -> String {
    let Some(cold) = &report.cold_key else {
        return String::new();
    };
    let count = |value: Option<f64>| {
        value.map_or_else(|| "not counted".to_owned(), |count| grouped(count as i64))
    };
    format!(
        "<section>\n<h2>A cold product</h2>\n<p class=\"about\">{} requests at the same time for one \
         product that no cache has, over {} replicas; the worst of {} tries.</p>\n\
         <table>\n<tr><th>loads from the database</th><th>look-ups that missed</th><th>errors</th></tr>\n\
         <tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n</table>\n</section>\n",
        grouped(cold.requests as i64),
        cold.replicas,
        cold.tries,
        count(cold.loads),
        count(cold.misses),
        cold.errors
    )
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut facts = vec![
        ("processor", machine.processor.clone()),
        (
            "cores",
            format!(
                "{} measured, {:?} for everything else",
                machine.cores.subject, machine.cores.others
            ),
        ),
        ("memory", format!("{} MiB", grouped(machine.memory_mib as i64))),
        ("kernel", machine.kernel.clone()),
    ];
    if let Some(memory) = report.memory {
        let mib = |bytes: u64| number(bytes as f64 / f64::from(1 << 20));
        let text = format!("{} MiB, {} MiB at most", mib(memory.resident), mib(memory.peak));
        facts.push(("resident memory of the replica", text));
    }
    facts.extend(machine.programs.iter().cloned());
    let rows: String = facts
        .iter()
        .map(|(name, value)| {
            format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), escape(value))
        })
        .collect();
    format!(
        "<section>\n<h2>Measured on</h2>\n<table class=\"facts\">\n{rows}</table>\n</section>\n"
    )
}
