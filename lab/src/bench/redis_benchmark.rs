//! `redis-benchmark`: what the same Redis gives a client that does nothing else.

use std::process::Command;

use super::figures::Sample;
use crate::error::{Error, Result};
use crate::run::output_of;

/// Gets of one key, from the measured core.
#[derive(Clone, Debug)]
pub(super) struct RedisBenchmark<'a> {
    /// The core, as `taskset --cpu-list` wants it.
    pub(super) core: &'a str,
    pub(super) port: u16,
    pub(super) connections: usize,
    pub(super) key: &'a str,
}

/// It takes a number of requests, not a time. So many tell how many a second it will be.
const PROBE: u64 = 5_000;

impl RedisBenchmark<'_> {
    /// Gets the key for about `seconds`.
    pub(super) fn run(&self, seconds: u64) -> Result<Sample> {
        let probe = self.get(PROBE)?;
        let per_second = PROBE as f64 / probe.seconds;
        self.get((per_second * seconds as f64) as u64)
    }

    fn get(&self, count: u64) -> Result<Sample> {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", self.core, "redis-benchmark", "--csv", "-h", "127.0.0.1"]);
        command.arg("-p").arg(self.port.to_string()).arg("-c").arg(self.connections.to_string());
        command.arg("-n").arg(count.to_string()).args(["get", self.key]);
        let output = output_of(&mut command, "", "run redis-benchmark")?;
        parse(&output, count)
            .ok_or_else(|| Error::new(format!("cannot understand redis-benchmark:\n{output}")))
    }
}

/// A line of names and one of figures. The names are asked for, since versions add columns.
fn parse(output: &str, count: u64) -> Option<Sample> {
    let mut lines = output.lines().skip_while(|line| !line.starts_with("\"test\""));
    let (names, figures) = (fields(lines.next()?), fields(lines.next()?));
    let figure = |name: &str| {
        let at = names.iter().position(|known| known == name)?;
        figures.get(at)?.parse::<f64>().ok()
    };
    let per_second = figure("rps").filter(|rate| *rate > 0.0)?;
    Some(Sample {
        seconds: count as f64 / per_second,
        requests: count,
        p50_us: Some(figure("p50_latency_ms")? * 1e3),
        p99_us: Some(figure("p99_latency_ms")? * 1e3),
        ..Sample::default()
    })
}

fn fields(line: &str) -> Vec<String> {
    line.split(',').map(|field| field.trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    const OUTPUT: &str = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
        \"get bench:product\",\"50000.00\",\"0.641\",\"0.120\",\"0.599\",\"0.903\",\"1.207\",\"2.007\"";

    #[test]
    fn figures_are_found_by_the_names_of_their_columns() {
        let sample = parse(OUTPUT, 100_000).expect("it is complete");
        assert!((sample.seconds - 2.0).abs() < 1e-9);
        assert_eq!((sample.p50_us, sample.p99_us), (Some(599.0), Some(1207.0)));
    }

    #[test]
    fn an_error_is_no_figure() {
        assert!(
            parse("Could not connect to Redis at 127.0.0.1:1: Connection refused", 1).is_none()
        );
    }
}
