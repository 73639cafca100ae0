//! How many replicas one metric asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::spec::Target;
use super::{Moment, Timing};

/// The controller counts in integers: a rounding error is no reason for another replica.
const SLACK: f64 = 1e-9;

/// A pod as the autoscaler sees it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Unique.
    pub name: String,
    /// When it was started.
    pub started: Moment,
    /// What it is now.
    pub state: State,
}

/// What has become of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, for whatever reason.
    Pending,
    /// It runs, and is not ready since then.
    Unready(Moment),
    /// It is ready since then.
    Ready(Moment),
    /// It was told to end, or has failed: nothing of it counts.
    Gone,
}

/// What was measured of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Cores, bytes, or whatever the metric counts.
    pub value: f64,
    /// When.
    pub at: Moment,
    /// Over how long a time.
    pub window: Duration,
}

/// What was measured, by the names of pods.
pub type Samples = BTreeMap<String, Sample>;

/// Pods by what can be said of them.
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
}

/// How many replicas `target` asks for where there are `current`; `None` if no pod that counts was measured.
pub(super) fn replicas(
    target: &Target,
    tolerance: (f64, f64),
    current: u32,
    pods: &[Pod],
    samples: &Samples,
    now: Moment,
    timing: &Timing,
) -> Option<u32> {
    let groups = group(target, pods, samples, now, timing);
    let counts = |name: &str| {
        let is_gone = |pod: &Pod| pod.name == name && pod.state == State::Gone;
        !groups.unready.contains(name) && !pods.iter().any(is_gone)
    };
    let mut values: BTreeMap<&str, f64> = samples
        .iter()
        .filter(|(name, _)| counts(name))
        .map(|(name, sample)| (&**name, sample.value))
        .collect();
    let ratio = ratio(target, &values)?;
    let unready_may_help = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_may_help && groups.missing.is_empty() {
        return Some(match is_within(ratio, tolerance) {
            true => current,
            false => (ratio * groups.ready as f64).ceil() as u32,
        });
    }
    if let Some(assumed) = of_missing(target, ratio) {
        values.extend(groups.missing.iter().map(|name| (*name, assumed)));
    }
    if unready_may_help {
        values.extend(groups.unready.iter().map(|name| (*name, 0.0)));
    }
    let cautious = self::ratio(target, &values)?;
    let has_turned = (ratio < 1.0 && cautious > 1.0) || (ratio > 1.0 && cautious < 1.0);
    if is_within(cautious, tolerance) || has_turned {
        return Some(current);
    }
    let wanted = (cautious * values.len() as f64).ceil() as u32;
    let is_contrary = (cautious < 1.0 && wanted > current) || (cautious > 1.0 && wanted < current);
    Some(if is_contrary { current } else { wanted })
}

fn group<'a>(
    target: &Target,
    pods: &'a [Pod],
    samples: &Samples,
    now: Moment,
    timing: &Timing,
) -> Groups<'a> {
    let mut groups = Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new() };
    for pod in pods.iter().filter(|pod| pod.state != State::Gone) {
        match samples.get(&pod.name) {
            _ if pod.state == State::Pending => groups.unready.insert(&pod.name),
            None => groups.missing.insert(&pod.name),
            Some(sample) if is_cpu(target) && is_starting(pod, sample, now, timing) => {
                groups.unready.insert(&pod.name)
            }
            Some(_) => {
                groups.ready += 1;
                true
            }
        };
    }
    groups
}

fn is_cpu(target: &Target) -> bool {
    matches!(target, Target::Utilization { resource, .. } if resource == "cpu")
}

/// Whether its CPU is that of its start, of which it says nothing about the load.
fn is_starting(pod: &Pod, sample: &Sample, now: Moment, timing: &Timing) -> bool {
    let (is_ready, since) = match pod.state {
        State::Ready(since) => (true, since),
        State::Unready(since) => (false, since),
        State::Pending | State::Gone => return true,
    };
    if pod.started + timing.cpu_initialization > now {
        // Until it was measured for a whole window while it was ready.
        !is_ready || sample.at < since + sample.window
    } else {
        !is_ready && pod.started + timing.initial_readiness > since
    }
}

/// What there is to what there should be; `None` where nothing was measured.
fn ratio(target: &Target, values: &BTreeMap<&str, f64>) -> Option<f64> {
    let count = Some(values.len()).filter(|count| *count > 0)? as f64;
    let sum: f64 = values.values().sum();
    Some(match target {
        // The controller counts whole percents.
        Target::Utilization { percent, request, .. } => {
            (sum * 100.0 / (request * count) + SLACK).floor() / f64::from(*percent)
        }
        Target::Average { value, .. } => sum / count / value,
    })
}

/// What a pod of which nothing is known is taken to use: what makes the change smaller.
fn of_missing(target: &Target, ratio: f64) -> Option<f64> {
    match target {
        Target::Utilization { percent, request, .. } if ratio < 1.0 => {
            Some(request * f64::from((*percent).max(100)) / 100.0)
        }
        Target::Utilization { .. } => (ratio > 1.0).then_some(0.0),
        Target::Average { value, .. } => Some(if ratio < 1.0 { *value } else { 0.0 }),
    }
}

/// `tolerance` is that of fewer and that of more replicas.
fn is_within(ratio: f64, (down, up): (f64, f64)) -> bool {
    (1.0 - down - SLACK..=1.0 + up + SLACK).contains(&ratio)
}

#[cfg(test)]
#[path = "metric_tests.rs"]
mod tests;
