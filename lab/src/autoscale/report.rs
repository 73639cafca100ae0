//! How it went, as a page.

use std::fmt::Write;
use std::time::Duration;

use super::hpa::{Size, Target, Timing};
use super::{Outcome, Row, manifest};
use crate::bench::figures::percentile;
use crate::bench::report::{grouped, number};
use crate::page::lines::{Line, Shape, lines};
use crate::page::{escape, whole};

pub(super) fn page(outcome: &Outcome) -> String {
    let plan = &outcome.plan;
    let mut body = format!(
        "<p class=\"lead\">Replicas of the service on one machine, started and ended by the algorithm of \
         Kubernetes' HorizontalPodAutoscaler with the numbers of <code>{}</code>.</p>\n\
         <p class=\"facts\">Scaled for one machine: a replica is to carry {} requests per second instead of {}, \
         and all durations of the autoscaler and of its metrics are divided by {}; times below are those of \
         the manifest. Replicas start and drain in the time that they take.</p>\n",
        escape(&manifest::path().display().to_string()),
        number(outcome.per_replica),
        number(outcome.per_replica * plan.load_divisor),
        plan.clock_factor
    );
    body.push_str(&verdict(outcome));
    body.push_str("<section>\n<h2>Load and replicas</h2>\n");
    body.push_str(&load(outcome));
    body.push_str(&replicas(outcome));
    body.push_str("</section>\n");
    body.push_str(&changes(outcome));
    body.push_str(&rules(outcome));
    whole("Shoal autoscaling", "Replicas follow the load", &body)
}

fn minutes(at: Duration) -> f64 {
    at.as_secs_f64() / 60.0
}

fn points(outcome: &Outcome, value: impl Fn(&Row) -> f64) -> Vec<(f64, f64)> {
    outcome.rows.iter().map(|row| (minutes(row.at), value(row))).collect()
}

fn load(outcome: &Outcome) -> String {
    let carried = |row: &Row| row.ready as f64 * outcome.per_replica;
    let all = [
        Line { name: "sent", shape: Shape::Area, points: points(outcome, |row| row.offered) },
        Line {
            name: "measured by the metric",
            shape: Shape::Straight('a'),
            points: points(outcome, |row| row.measured),
        },
        Line {
            name: "what the ready replicas are to carry",
            shape: Shape::Steps('c'),
            points: points(outcome, carried),
        },
    ];
    lines("Load", "minutes", "requests per second", &all)
}

fn replicas(outcome: &Outcome) -> String {
    let asked = |row: &Row| f64::from(row.proposals.iter().flatten().copied().max().unwrap_or(0));
    let all = [
        Line {
            name: "asked for by the metrics",
            shape: Shape::Steps('c'),
            points: points(outcome, asked),
        },
        Line {
            name: "ready or draining",
            shape: Shape::Area,
            points: points(outcome, |row| (row.ready + row.leaving) as f64),
        },
        Line {
            name: "decided on",
            shape: Shape::Steps('a'),
            points: points(outcome, |row| f64::from(row.wanted)),
        },
    ];
    lines("Replicas", "minutes", "replicas", &all)
}

fn verdict(outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    let mut millis = tally.millis.clone();
    let mut at = |percent| {
        let value = percentile(&mut millis, percent);
        value.map_or_else(|| "–".to_owned(), |value| format!("{} ms", number(value)))
    };
    let (p50, p99) = (at(50.0), at(99.0));
    let count = |value: u64| grouped(value as i64);
    let pill = |is_met: bool| match is_met {
        true => "<span class=\"met\">as it should be</span>",
        false => "<span class=\"missed\">not as it should be</span>",
    };
    let rows = [
        ("requests answered as they should be", count(tally.answered), String::new()),
        ("failed", count(tally.failed), pill(tally.failed == 0).to_owned()),
        (
            "turns from growing to shrinking or back, where the load rises and falls once",
            outcome.turns().to_string(),
            pill(outcome.turns() <= 1).to_owned(),
        ),
        ("most replicas", outcome.peak().to_string(), String::new()),
        ("replicas in the end", outcome.last().to_string(), String::new()),
        ("p50, of a debug build where it is one", p50, String::new()),
        ("p99, with the orders that wait for half a second by design", p99, String::new()),
    ];
    let mut html = String::from("<section>\n<h2>How it went</h2>\n<table class=\"targets\">\n");
    for (what, value, word) in rows {
        let _ =
            writeln!(html, "<tr><td>{what}</td><td class=\"n\">{value}</td><td>{word}</td></tr>");
    }
    html.push_str("</table>\n");
    for example in &tally.examples {
        let _ = writeln!(html, "<p class=\"warning\">{}</p>", escape(example));
    }
    html.push_str("</section>\n");
    html
}

/// Every change, and which metric had asked for the most.
fn changes(outcome: &Outcome) -> String {
    let targets = &outcome.plan.manifest.spec.targets;
    let mut html = String::from(
        "<section>\n<h2>Changes</h2>\n<table>\n<tr><th>minute</th><th>from</th><th>to</th>\
         <th>requests per second</th><th>asked for most by</th></tr>\n",
    );
    for pair in outcome.rows.windows(2).filter(|pair| pair[0].wanted != pair[1].wanted) {
        let (before, after) = (&pair[0], &pair[1]);
        let asked = targets.iter().map(Target::name).zip(&after.proposals);
        let most =
            asked.filter_map(|(name, count)| Some((name, (*count)?))).max_by_key(|(_, c)| *c);
        let _ = writeln!(
            html,
            "<tr><td>{:.1}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            minutes(after.at),
            before.wanted,
            after.wanted,
            number(after.measured),
            most.map_or_else(String::new, |(name, count)| format!("{}: {count}", escape(name)))
        );
    }
    html.push_str("</table>\n</section>\n");
    html
}

/// What was read.
fn rules(outcome: &Outcome) -> String {
    let manifest = &outcome.plan.manifest;
    let spec = &manifest.spec;
    let seconds = |duration: Duration| format!("{} s", duration.as_secs());
    let mut facts = vec![("replicas".to_owned(), format!("{} to {}", spec.fewest, spec.most))];
    for target in &spec.targets {
        let value = match target {
            Target::Utilization { percent, .. } => format!("{percent} % of what is requested"),
            Target::Average { value, .. } => format!("{} per pod", number(*value)),
        };
        facts.push((target.name().to_owned(), value));
    }
    for (direction, rules) in [("up", &spec.behavior.up), ("down", &spec.behavior.down)] {
        let policies = rules.policies.iter().map(|policy| {
            let size = match policy.size {
                Size::Pods(count) => format!("{count} pods"),
                Size::Percent(percent) => format!("{percent} %"),
            };
            format!("{size} per {}", seconds(policy.period))
        });
        let text = format!(
            "{}; window of {}; tolerance of {} %",
            policies.collect::<Vec<_>>().join(" or "),
            seconds(rules.window),
            number(rules.tolerance * 100.0)
        );
        facts.push((direction.to_owned(), text));
    }
    let timing = Timing::default();
    facts.push(("decided every".to_owned(), seconds(timing.sync)));
    facts.push(("CPU and memory looked at every".to_owned(), seconds(timing.resources)));
    let rate = format!(
        "rate over {}, scraped every {}",
        seconds(manifest.rate_window),
        seconds(manifest.scrape_interval)
    );
    facts.push((manifest::RATE.to_owned(), rate));
    let rows: String = facts
        .iter()
        .map(|(name, value)| {
            format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), escape(value))
        })
        .collect();
    format!(
        "<section>\n<h2>By these rules</h2>\n<table class=\"facts\">\n{rows}</table>\n</section>\n"
    )
}
