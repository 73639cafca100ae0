//! What was measured: samples, and the rows that several rounds of them make.

use serde::Serialize;

/// One run of one contender.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) seconds: f64,
    pub(super) requests: u64,
    /// Answers other than 2xx, time-outs, broken connections, failed transactions.
    pub(super) errors: u64,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    /// Time of the core that the server process has used. Load generators have none.
    pub(super) cpu_seconds: Option<f64>,
    /// The part of the measured core's time that somebody else took.
    pub(super) disturbed: Option<f64>,
    /// Requests that a cache answered, by 1.
    pub(super) hit_rate: Option<f64>,
    /// Round trips to Postgres a request, with whatever else the process does meanwhile.
    pub(super) round_trips: Option<f64>,
    /// Statements of the service for one order, each a round trip once it is prepared.
    pub(super) statements: Option<f64>,
}

impl Sample {
    /// `None` if nothing was answered.
    pub(super) fn per_second(&self) -> Option<f64> {
        (self.seconds > 0.0 && self.requests > 0).then(|| self.rate())
    }

    fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    fn cpu_us(&self) -> Option<f64> {
        let cpu = self.cpu_seconds.filter(|_| self.requests > 0)?;
        Some(cpu * 1e6 / self.requests as f64)
    }
}

/// What serves the requests of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The service, all layers on.
    Service,
    /// A bare handler that answers the same bytes.
    Bare,
    /// A bare handler that fetches them from Redis.
    BareRedis,
    /// A bare handler that asks Postgres.
    BareQuery,
    /// `pgbench`, with the same SQL.
    Pgbench,
    /// `redis-benchmark`, with the same entry.
    RedisBenchmark,
}

/// A contender with the samples of all rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.to_owned(), kind, samples: Vec::new() }
    }

    /// The round in the middle, by requests per second. Contenders take turns, so what slows one down for a
    /// while, such as a disk, slows all: the middle ones compare, where the best ones would be luck.
    pub(super) fn typical(&self) -> Option<&Sample> {
        let measured = self.samples.iter().filter(|sample| sample.per_second().is_some());
        let mut measured: Vec<&Sample> = measured.collect();
        measured.sort_by(|a, b| f64::total_cmp(&a.rate(), &b.rate()));
        measured.get(measured.len() / 2).copied()
    }

    /// Requests per second.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.typical()?.per_second()
    }

    /// Microseconds of CPU per request of the server process.
    pub(super) fn cpu_us(&self) -> Option<f64> {
        self.typical()?.cpu_us()
    }

    /// Of all rounds.
    pub(super) fn errors(&self) -> u64 {
        self.samples.iter().map(|sample| sample.errors).sum()
    }
}

/// A workload with its contenders, the service first.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) about: String,
    pub(super) rows: Vec<Row>,
}

impl Table {
    pub(super) fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }
}

/// The value below which `percent` of them lie, between the two nearest ones; `None` of nothing.
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = percent / 100.0 * last as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::{Kind, Row, Sample, percentile};

    #[test]
    fn percentiles_lie_between_the_nearest_values() {
        assert_eq!(percentile(&mut [], 50.0), None);
        assert_eq!(percentile(&mut [7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&mut [4.0, 1.0, 2.0], 50.0), Some(2.0));
        assert_eq!(percentile(&mut [1.0, 3.0], 50.0), Some(2.0));
        assert_eq!(percentile(&mut [0.0, 100.0], 99.0), Some(99.0));
    }

    #[test]
    fn a_row_tells_its_middle_round_and_the_errors_of_all() {
        let sample = |requests, errors| Sample {
            seconds: 2.0,
            requests,
            errors,
            cpu_seconds: Some(1.0),
            ..Sample::default()
        };
        let mut row = Row::new("shoal", Kind::Service);
        row.samples = vec![sample(100, 1), sample(400, 0), sample(200, 2)];
        assert_eq!(row.per_second(), Some(100.0));
        assert_eq!(row.cpu_us(), Some(5000.0));
        assert_eq!(row.errors(), 3);
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        let mut row = Row::new("shoal", Kind::Service);
        assert_eq!((row.per_second(), row.cpu_us()), (None, None));
        row.samples = vec![Sample { cpu_seconds: Some(1.0), ..Sample::default() }];
        assert_eq!((row.per_second(), row.cpu_us()), (None, None));
    }
}
