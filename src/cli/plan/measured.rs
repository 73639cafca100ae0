//! The figures that a plan goes by.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Measured on the machine that it names; a file of `cargo lab bench --only knee`, without what is not read.
const SHIPPED: &str = include_str!("measured.json");

/// A bench file. Whatever else is in it does not matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Measured {
    pub(super) machine: Machine,
    pub(super) knee: Knee,
}

#[derive(Debug, Deserialize)]
pub(super) struct Machine {
    /// RFC 3339.
    pub(super) date: String,
    pub(super) processor: String,
}

/// One replica with a core to itself, over rising concurrency.
#[derive(Debug, Deserialize)]
pub(super) struct Knee {
    /// The part of the requests that place an order.
    pub(super) orders_share: f64,
    pub(super) steps: Vec<Step>,
    /// The connections of the step beyond which requests only take longer.
    pub(super) connections: u32,
}

/// So many connections.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Step {
    pub(super) connections: u32,
    pub(super) per_second: f64,
    pub(super) p99_us: f64,
    /// Microseconds for which a request held a server connection to the primary.
    pub(super) primary_us: f64,
    /// The same of all replicas of Postgres together.
    pub(super) replicas_us: f64,
    pub(super) errors: u64,
}

impl Measured {
    /// The figures that come with the program.
    pub(super) fn shipped() -> anyhow::Result<Self> {
        Self::parse(SHIPPED).context("the figures of this build are broken")
    }

    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read the bench file {}", file.display()))?;
        Self::parse(&text).with_context(|| {
            let file = file.display();
            format!("{file} is no bench file with a knee; `cargo lab bench --only knee` writes one")
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let measured: Self = serde_json::from_str(text)?;
        let knee = &measured.knee;
        let shares = 0.0..=1.0;
        ensure!(shares.contains(&knee.orders_share), "orders_share is not between 0 and 1");
        ensure!(!knee.steps.is_empty(), "there are no steps");
        for step in &knee.steps {
            let figures = [step.per_second, step.p99_us, step.primary_us, step.replicas_us];
            let are_figures = figures.iter().all(|figure| figure.is_finite() && *figure >= 0.0);
            ensure!(
                are_figures && step.per_second > 0.0 && step.connections > 0,
                "the step of {} connections has a figure that cannot be",
                step.connections
            );
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::Measured;

    #[test]
    fn what_is_shipped_can_be_planned_with() {
        let shipped = Measured::shipped().unwrap();
        assert!(shipped.knee.steps.iter().any(|step| step.connections == shipped.knee.connections));
        assert!(shipped.knee.steps.iter().all(|step| step.errors == 0));
    }

    #[test]
    fn what_is_no_bench_file_is_refused() {
        for text in ["", "{}", r#"{"machine":{"date":"","processor":""},"knee":null}"#] {
            assert!(Measured::parse(text).is_err(), "{text}");
        }
        let with = |step: &str| {
            Measured::parse(&format!(
                r#"{{"machine":{{"date":"d","processor":"p"}},
                    "knee":{{"orders_share":0.1,"connections":1,"steps":[{step}]}}}}"#
            ))
        };
        assert!(with("").is_err());
        let step = r#"{"connections":1,"per_second":RATE,"p99_us":1,"primary_us":1,"replicas_us":0,"errors":0}"#;
        assert!(with(&step.replace("RATE", "10")).is_ok());
        assert!(with(&step.replace("RATE", "0")).is_err());
        assert!(with(&step.replace("RATE", "-1")).is_err());
    }
}
