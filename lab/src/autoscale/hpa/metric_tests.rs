//! One row per rule of the algorithm.

use std::time::Duration;

use super::{Pod, Sample, Samples, State, replicas};
use crate::autoscale::hpa::{Target, Timing};

const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::from_secs(1_000);

/// Ready for long, unless said otherwise; `None` was not measured.
fn case(target: &Target, current: u32, pods: &[(State, Option<f64>)]) -> Option<u32> {
    let mut samples = Samples::new();
    let mut all = Vec::new();
    for (number, (state, value)) in pods.iter().enumerate() {
        let name = format!("pod-{number}");
        let sample = |value| Sample { value, at: NOW, window: 15 * SECOND };
        samples.extend(value.map(|value| (name.clone(), sample(value))));
        // Those that are not ready for long are new.
        let started = match state {
            State::Ready(since) | State::Unready(since) => since.saturating_sub(SECOND),
            State::Pending | State::Gone => Duration::ZERO,
        };
        all.push(Pod { name, started, state: *state });
    }
    replicas(target, (0.1, 0.1), current, &all, &samples, NOW, &Timing::default())
}

fn requests() -> Target {
    Target::Average { metric: "requests".to_owned(), value: 100.0 }
}

fn cpu() -> Target {
    Target::Utilization { resource: "cpu".to_owned(), percent: 70, request: 0.5 }
}

const READY: State = State::Ready(Duration::ZERO);

fn ready(value: f64) -> (State, Option<f64>) {
    (READY, Some(value))
}

#[test]
fn replicas_grow_with_the_ratio_rounded_up() {
    for (values, expected) in [
        (vec![150.0, 150.0], 3),
        // 1.05 and 0.95 are within the tolerance, as are 1.1 and 0.9 themselves.
        (vec![105.0, 105.0], 2),
        (vec![95.0, 95.0], 2),
        (vec![110.0, 110.0], 2),
        (vec![90.0, 90.0], 2),
        (vec![111.0, 111.0], 3),
        (vec![20.0, 20.0], 1),
        // The mean counts.
        (vec![10.0, 290.0, 150.0], 5),
        (vec![0.0, 0.0], 0),
    ] {
        let pods: Vec<_> = values.iter().copied().map(ready).collect();
        assert_eq!(case(&requests(), pods.len() as u32, &pods), Some(expected), "{values:?}");
    }
}

#[test]
fn utilization_is_of_what_is_requested_in_whole_percents() {
    // 70 % of half a core are 0.35; 0.6 cores are 120 %.
    assert_eq!(case(&cpu(), 2, &[ready(0.6), ready(0.6)]), Some(4));
    assert_eq!(case(&cpu(), 2, &[ready(0.35), ready(0.35)]), Some(2));
    // 77.8 % count as 77, which is exactly within 1.1.
    assert_eq!(case(&cpu(), 2, &[ready(0.389), ready(0.389)]), Some(2));
    assert_eq!(case(&cpu(), 2, &[ready(0.39), ready(0.39)]), Some(3));
}

#[test]
fn one_that_was_not_measured_makes_the_change_smaller() {
    // Up: it is taken to use nothing, so 1.5 over two is 1.0 over three.
    assert_eq!(case(&requests(), 3, &[ready(150.0), ready(150.0), (READY, None)]), Some(3));
    assert_eq!(case(&requests(), 3, &[ready(300.0), ready(300.0), (READY, None)]), Some(6));
    // Down: it is taken to use all that it may.
    assert_eq!(case(&requests(), 3, &[ready(20.0), ready(20.0), (READY, None)]), Some(2));
    // Of a resource, what it requests: 100 % to a target of 70 %.
    assert_eq!(case(&cpu(), 3, &[ready(0.1), ready(0.1), (READY, None)]), Some(2));
    assert_eq!(case(&cpu(), 2, &[ready(0.3), (READY, None)]), Some(2), "it would turn round");
}

#[test]
fn one_that_starts_helps_soon_and_is_no_reason_to_go() {
    let new = State::Unready(NOW - 10 * SECOND);
    // Its own CPU is that of its start.
    assert_eq!(case(&cpu(), 2, &[ready(0.5), (new, Some(1.0))]), Some(2));
    assert_eq!(case(&cpu(), 2, &[ready(1.4), (new, Some(1.0))]), Some(4));
    assert_eq!(case(&cpu(), 2, &[ready(0.1), (new, Some(1.0))]), Some(1));
    // Ready for less than a window: as if it were not.
    let fresh = State::Ready(NOW - 10 * SECOND);
    assert_eq!(case(&cpu(), 2, &[ready(0.35), (fresh, Some(1.0))]), Some(2));
    let settled = State::Ready(NOW - 20 * SECOND);
    assert_eq!(case(&cpu(), 2, &[ready(0.35), (settled, Some(1.05))]), Some(4));
    // Requests that it has answered count whether it is ready or not.
    assert_eq!(case(&requests(), 2, &[ready(150.0), (new, Some(150.0))]), Some(3));
    // What waits to be started is expected to help.
    assert_eq!(case(&requests(), 2, &[ready(150.0), (State::Pending, None)]), Some(2));
}

#[test]
fn one_that_was_ready_and_is_not_any_more_counts_after_the_initial_period() {
    let broken = State::Unready(NOW - 10 * SECOND);
    let pod = |started, state| Pod { name: "pod".to_owned(), started, state };
    let samples: Samples =
        [("pod".to_owned(), Sample { value: 1.05, at: NOW, window: 15 * SECOND })].into();
    let ask = |pod: Pod| replicas(&cpu(), (0.1, 0.1), 1, &[pod], &samples, NOW, &Timing::default());
    assert_eq!(ask(pod(Duration::ZERO, broken)), Some(3));
    // Never ready: it does not, however long ago it was started.
    assert_eq!(ask(pod(Duration::ZERO, State::Unready(10 * SECOND))), None);
}

#[test]
fn one_that_leaves_does_not_count() {
    assert_eq!(case(&requests(), 1, &[ready(150.0), (State::Gone, Some(900.0))]), Some(2));
    assert_eq!(case(&requests(), 1, &[(State::Gone, Some(900.0))]), None);
    assert_eq!(case(&requests(), 1, &[]), None);
}
