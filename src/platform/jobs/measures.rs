//! Metrics of jobs. What has to be asked of the database is asked by workers only.

use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::queries::Depth;
use crate::platform::metrics::Metrics;

/// States of jobs that are counted. What is finished is not: there are too many.
pub(super) const COUNTED: [&str; 4] = ["scheduled", "available", "running", "dead"];

pub(super) struct Measures {
    pub(super) job_seconds: HistogramVec,
    pub(super) last_poll: Gauge,
    pub(super) missed_ticks: IntCounterVec,
    pub(super) outbox_pending: IntGauge,
    pub(super) outbox_age: Gauge,
    pub(super) unstreamed: IntGauge,
    pub(super) default_rows: IntGaugeVec,
    depth: IntGaugeVec,
    oldest: GaugeVec,
}

impl Measures {
    pub(super) fn new(metrics: &Metrics) -> prometheus::Result<Self> {
        Ok(Self {
            job_seconds: metrics.seconds_vec(
                "queue_job_duration_seconds",
                "Time of one attempt.",
                &["queue", "job", "outcome"],
            )?,
            last_poll: metrics.gauge(
                "worker_last_poll_timestamp_seconds",
                "When this worker last asked for jobs and was answered, since 1970.",
            )?,
            missed_ticks: metrics.counter_vec(
                "schedule_missed_ticks_total",
                "Ticks that no worker was there for.",
                &["schedule"],
            )?,
            outbox_pending: metrics
                .int_gauge("outbox_pending", "Events that wait to be passed on.")?,
            outbox_age: metrics
                .gauge("outbox_oldest_age_seconds", "How long the oldest of them has waited.")?,
            unstreamed: metrics.int_gauge(
                "events_unstreamed",
                "Events that the stream for other services has not taken yet.",
            )?,
            default_rows: metrics.int_gauge_vec(
                "db_default_partition_rows",
                "Rows in a default partition, counted up to 1000: the month's was not made.",
                &["table"],
            )?,
            depth: metrics.int_gauge_vec(
                "queue_depth",
                "Jobs by queue and state: scheduled, available, running, dead. Counted up to 100000.",
                &["queue", "state"],
            )?,
            oldest: metrics.gauge_vec(
                "queue_oldest_age_seconds",
                "How long the oldest job that could run has waited.",
                &["queue"],
            )?,
        })
    }

    pub(super) fn set_depths<'q>(&self, queues: impl Iterator<Item = &'q str>, depths: &[Depth]) {
        for queue in queues {
            for state in COUNTED {
                let found =
                    depths.iter().find(|depth| depth.queue == queue && depth.state == state);
                let count = found.map_or(0, |depth| depth.count);
                self.depth.with_label_values(&[queue, state]).set(count);
                if state == "available" {
                    let age = found.map_or(0.0, |depth| depth.oldest_seconds);
                    self.oldest.with_label_values(&[queue]).set(age);
                }
            }
        }
    }
}
