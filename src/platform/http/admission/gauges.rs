//! `concurrency_limit` and `service_saturation_ratio`, read when they are scraped: keeping them
//! up to date would cost every request.

use std::sync::Arc;

use prometheus::{
    Gauge, IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::platform::{concurrency::Limiter, metrics::Metrics};

pub(super) struct Gauges {
    limiter: Arc<Limiter>,
    limit: IntGauge,
    saturation: Gauge,
}

impl Gauges {
    pub(super) fn register(limiter: Arc<Limiter>, metrics: &Metrics) -> prometheus::Result<()> {
        let limit = IntGauge::new("concurrency_limit", "Requests that may be in progress now.")?;
        let saturation = Gauge::new(
            "service_saturation_ratio",
            "Requests in progress, as a part of `concurrency_limit`.",
        )?;
        metrics.register(Self { limiter, limit, saturation })
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        [self.limit.desc(), self.saturation.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (limit, used) = (self.limiter.limit(), self.limiter.in_progress());
        self.limit.set(limit as i64);
        self.saturation.set(used as f64 / limit as f64);
        [self.limit.collect(), self.saturation.collect()].concat()
    }
}
