//! `http_requests_total`, `http_request_duration_seconds` and `http_requests_in_flight`.

use std::{collections::HashMap, sync::RwLock, time::Duration};

use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::platform::metrics::Metrics;

/// The label of requests that matched no route: paths are chosen by clients, labels must not be.
pub(super) const UNKNOWN_ROUTE: &str = "<unknown>";

pub(super) struct RouteMetrics {
    total: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    /// Children by route, then by method and status, so that a request hashes its route once and
    /// allocates nothing. Bounded by the routes that exist.
    series: RwLock<HashMap<String, HashMap<MethodAndStatus, Series>>>,
}

type MethodAndStatus = (&'static str, u16);

#[derive(Clone)]
struct Series {
    total: IntCounter,
    seconds: Histogram,
}

impl RouteMetrics {
    /// # Errors
    /// A metric is registered twice.
    pub(super) fn new(metrics: &Metrics) -> prometheus::Result<Self> {
        let labels = ["method", "route", "status"];
        Ok(Self {
            total: metrics.counter_vec(
                "http_requests_total",
                "Requests by method, route template and status.",
                &labels,
            )?,
            seconds: metrics.seconds_vec(
                "http_request_duration_seconds",
                "Time from the request's head to the response's head.",
                &labels,
            )?,
            in_flight: metrics
                .int_gauge("http_requests_in_flight", "Requests that have no response yet.")?,
            series: RwLock::default(),
        })
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(super) fn start(&self) -> impl Drop + use<> {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub(super) fn record(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let key = (method_label(method), status.as_u16());
        let known = self.series.read().ok().and_then(|series| {
            let series = series.get(route)?.get(&key)?;
            series.observe(took);
            Some(())
        });
        if known.is_none() {
            self.series(route, key).observe(took);
        }
    }

    fn series(&self, route: &str, key: MethodAndStatus) -> Series {
        let status = key.1.to_string();
        let labels = [key.0, route, &status];
        let series = Series {
            total: self.total.with_label_values(&labels),
            seconds: self.seconds.with_label_values(&labels),
        };
        if let Ok(mut all) = self.series.write() {
            all.entry(route.to_owned()).or_default().insert(key, series.clone());
        }
        series
    }
}

impl Series {
    fn observe(&self, took: Duration) {
        self.total.inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Methods are chosen by clients as well.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
