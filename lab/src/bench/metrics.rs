//! Reads the counters that a replica shows on `/metrics`.

use std::collections::BTreeMap;

use super::http;
use crate::error::{Error, Result};

/// Counters by their whole name, labels included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// Those of the replica on `port`, now.
    pub(crate) fn scrape(port: u16) -> Result<Self> {
        let answer = http::get(port, "/metrics", &[])?;
        if answer.status != 200 {
            return Err(Error::new(format!("/metrics answered {}", answer.status)));
        }
        Ok(Self::parse(&answer.text()))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(pairs.collect())
    }

    /// All series of the metric `name`.
    pub(crate) fn series(&self, name: &str) -> BTreeMap<String, f64> {
        let is_of = |series: &str| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let own = self.0.iter().filter(|(series, _)| is_of(series));
        own.map(|(series, value)| (series.clone(), *value)).collect()
    }

    /// The sum of the counter `name` over all series that have these labels; `None` if there is no such
    /// series.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let mut values = self.0.iter().filter_map(|(series, value)| {
            let own = series.strip_prefix(name)?;
            let is_it = own.is_empty() || own.starts_with('{');
            (is_it && wanted.iter().all(|label| own.contains(&**label))).then_some(*value)
        });
        let first = values.next()?;
        Some(first + values.sum::<f64>())
    }

    /// How much [`Counters::sum`] has grown since `earlier`.
    pub(super) fn growth(
        &self,
        earlier: &Self,
        name: &str,
        labels: &[(&str, &str)],
    ) -> Option<f64> {
        Some(self.sum(name, labels)? - earlier.sum(name, labels).unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Counters;

    const TEXT: &str = "# HELP cache_requests_total Look-ups.\n\
        cache_requests_total{cache=\"product\",result=\"hit\",tier=\"near\"} 5\n\
        cache_requests_total{cache=\"product\",result=\"hit\",tier=\"redis\"} 2\n\
        cache_requests_total{cache=\"catalogue\",result=\"hit\",tier=\"redis\"} 9\n\
        cache_requests_total_other 100\nup 1\n";

    #[test]
    fn series_are_summed_by_the_labels_asked_for() {
        let counters = Counters::parse(TEXT);
        let hits = [("cache", "product"), ("result", "hit")];
        assert_eq!(counters.sum("cache_requests_total", &hits), Some(7.0));
        assert_eq!(counters.sum("cache_requests_total", &[("result", "load")]), None);
        assert_eq!(counters.sum("up", &[]), Some(1.0));
        assert_eq!(counters.series("cache_requests_total").len(), 3);
        assert_eq!(counters.series("up"), [("up".to_owned(), 1.0)].into());
    }

    #[test]
    fn a_series_that_was_not_there_has_grown_from_nothing() {
        let grown = Counters::parse(TEXT).growth(&Counters::default(), "up", &[]);
        assert_eq!(grown, Some(1.0));
    }
}
