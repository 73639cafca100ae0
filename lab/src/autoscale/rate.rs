//! `rate()` of Prometheus, for the counters that one replica shows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::hpa::Moment;

/// The samples of a counter in all its series, as far back as the range goes.
#[derive(Debug, Default)]
pub(super) struct Range {
    scrapes: VecDeque<(Moment, BTreeMap<String, f64>)>,
}

impl Range {
    /// Keeps what was scraped `at` this moment, and forgets what is older than `window`.
    pub(super) fn keep(&mut self, at: Moment, series: BTreeMap<String, f64>, window: Duration) {
        self.scrapes.push_back((at, series));
        while self.scrapes.front().is_some_and(|(first, _)| *first + window < at) {
            self.scrapes.pop_front();
        }
    }

    /// `sum(rate(…[window]))` at the moment `now`; `None` until two scrapes lie within the window.
    pub(super) fn rate(&self, now: Moment, window: Duration) -> Option<f64> {
        let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        let recent = self.scrapes.iter().filter(|(at, _)| *at + window >= now);
        for (at, values) in recent {
            for (name, value) in values {
                series.entry(name).or_default().push((at.as_secs_f64(), *value));
            }
        }
        let rates = series
            .values()
            .filter_map(|samples| extrapolated(samples, now.as_secs_f64(), window.as_secs_f64()));
        rates.reduce(|sum, rate| sum + rate)
    }
}

/// The growth per second of one series, from its first to its last sample, as if it had gone on to both ends
/// of the window: but at most half an interval where the next sample is missing, and never below zero.
fn extrapolated(samples: &[(f64, f64)], now: f64, window: f64) -> Option<f64> {
    let [(first_at, first), .., (last_at, last)] = samples else {
        return None;
    };
    // A counter that is smaller than it was began anew.
    let resets: f64 =
        samples.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum();
    let growth = last - first + resets;
    let sampled = last_at - first_at;
    let interval = sampled / (samples.len() - 1) as f64;
    let reach = |gap: f64| if gap >= interval * 1.1 { interval / 2.0 } else { gap };
    let mut before = reach(first_at - (now - window));
    if growth > 0.0 && *first >= 0.0 {
        before = before.min(sampled * first / growth);
    }
    let after = reach(now - last_at);
    Some(growth * (sampled + before + after) / sampled / window).filter(|rate| rate.is_finite())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Range, extrapolated};

    const WINDOW: f64 = 60.0;

    fn assert_near(found: Option<f64>, expected: f64) {
        let found = found.expect("there are two samples");
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn growth_goes_on_to_both_ends_of_the_window() {
        let every_ten: Vec<_> =
            (0..6).map(|n| (5.0 + 10.0 * f64::from(n), 1000.0 + 100.0 * f64::from(n))).collect();
        assert_near(extrapolated(&every_ten, 60.0, WINDOW), 10.0);
    }

    #[test]
    fn a_series_that_began_within_it_does_not_reach_back() {
        // Ten a second from 0 on: at most half an interval before it, and not below zero.
        let young = [(40.0, 1000.0), (50.0, 1100.0)];
        assert_near(extrapolated(&young, 60.0, WINDOW), 100.0 * 2.5 / WINDOW);
        let new = [(40.0, 0.0), (50.0, 100.0)];
        assert_near(extrapolated(&new, 60.0, WINDOW), 100.0 * 2.0 / WINDOW);
    }

    #[test]
    fn a_counter_that_began_anew_has_grown_all_the_same() {
        let reset = [(0.0, 100.0), (30.0, 200.0), (60.0, 50.0)];
        assert_near(extrapolated(&reset, 60.0, WINDOW), 150.0 / WINDOW);
        assert_eq!(extrapolated(&[(0.0, 1.0)], 60.0, WINDOW), None);
    }

    #[test]
    fn series_are_summed_and_old_scrapes_forgotten() {
        let mut range = Range::default();
        let second = Duration::from_secs(1);
        for n in 0..20_u32 {
            let value = f64::from(n) * 10.0 + 500.0;
            let series = [("a".to_owned(), value), ("b".to_owned(), value * 2.0)];
            range.keep(n * second, series.into(), 5 * second);
        }
        assert_eq!(range.scrapes.len(), 6);
        assert_near(range.rate(19 * second, 5 * second), 30.0);
        assert_eq!(range.rate(60 * second, 5 * second), None);
    }
}
