//! Rising concurrency, as lines of text and as drawings.

use super::text::aligned;
use super::{number, time};
use crate::bench::knee::{Knee, Step};
use crate::page::escape;
use crate::page::lines::{Line, Shape, lines};

const COLUMNS: [&str; 9] =
    ["connections", "req/s", "p50", "p99", "CPU/req", "primary/req", "replicas/req", "errors", ""];

pub(super) fn text(knee: &Knee) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    rows.extend(knee.steps.iter().map(|step| cells(knee, step)));
    format!("{}: {}\n{}", TITLE, about(knee), aligned(&rows, &[false; 9]))
}

const TITLE: &str = "Rising concurrency";

fn about(knee: &Knee) -> String {
    let mix = &knee.mix;
    format!(
        "of {} requests {} are pages of the catalogue, {} products, {} own orders, {} orders to place, all with a \
         token; primary and replicas: for how long a request holds a server connection",
        mix.sum(),
        mix.lists,
        mix.products,
        mix.own_orders,
        mix.orders
    )
}

fn cells(knee: &Knee, step: &Step) -> Vec<String> {
    let mark = if step.connections == knee.connections { "the knee" } else { "" };
    vec![
        step.connections.to_string(),
        number(step.per_second),
        time(step.p50_us),
        time(step.p99_us),
        time(step.cpu_us),
        time(step.primary_us),
        time(step.replicas_us),
        step.errors.to_string(),
        mark.to_owned(),
    ]
}

pub(super) fn section(knee: &Knee) -> String {
    let points = |value: fn(&Step) -> f64| -> Vec<(f64, f64)> {
        knee.steps.iter().map(|step| (f64::from(step.connections as u32), value(step))).collect()
    };
    let curve = |value: fn(&Step) -> f64| -> Vec<(f64, f64)> {
        knee.steps.iter().map(|step| (step.per_second, value(step) / 1e3)).collect()
    };
    let at = knee.step().map(|step| (step.per_second, step.p99_us / 1e3));
    let rate = Line {
        name: "requests per second",
        shape: Shape::Dotted('a'),
        points: points(|step| step.per_second),
    };
    let delay = [
        Line { name: "p50", shape: Shape::Dotted('c'), points: curve(|step| step.p50_us) },
        Line { name: "p99", shape: Shape::Dotted('a'), points: curve(|step| step.p99_us) },
        Line { name: "the knee", shape: Shape::Dotted('b'), points: at.into_iter().collect() },
    ];
    let heads: String = COLUMNS.iter().map(|name| format!("<th>{name}</th>")).collect();
    let rows: String = knee
        .steps
        .iter()
        .map(|step| {
            let cells = cells(knee, step);
            let class = if step.connections == knee.connections { " class=\"own\"" } else { "" };
            let cells: String =
                cells.iter().map(|cell| format!("<td class=\"n\">{}</td>", escape(cell))).collect();
            format!("<tr{class}>{cells}</tr>\n")
        })
        .collect();
    format!(
        "<section>\n<h2>{TITLE}</h2>\n<p class=\"about\">{}</p>\n{}{}<table>\n<tr>{heads}</tr>\n{rows}</table>\n</section>\n",
        escape(&about(knee)),
        lines("Throughput", "connections", "requests per second", &[rate]),
        lines("Delay", "requests per second", "milliseconds", &delay)
    )
}
