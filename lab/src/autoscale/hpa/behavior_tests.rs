//! The shipped behaviour, step by step, and the choices that it does not make.

use std::time::Duration;

use super::History;
use crate::autoscale::hpa::{Behavior, Policy, Rules, Select, Size, Spec};

fn rules(window: u64, select: Select, policies: &[(Size, u64)]) -> Rules {
    let policy =
        |(size, period): &(Size, u64)| Policy { size: *size, period: Duration::from_secs(*period) };
    Rules {
        window: Duration::from_secs(window),
        select,
        policies: policies.iter().map(policy).collect(),
        tolerance: 0.1,
    }
}

fn spec(up: Rules, down: Rules) -> Spec {
    Spec { fewest: 3, most: 20, targets: Vec::new(), behavior: Behavior { up, down } }
}

fn fast() -> Rules {
    rules(0, Select::Max, &[(Size::Percent(100), 15), (Size::Pods(4), 15)])
}

fn slow() -> Rules {
    rules(300, Select::Max, &[(Size::Percent(10), 60)])
}

/// What comes of each wish, with the second at which it is made.
fn follow(spec: &Spec, mut current: u32, wishes: &[(u64, u32)]) -> Vec<u32> {
    let mut history = History::default();
    let decide = |(second, wanted): &(u64, u32)| {
        let now = Duration::from_secs(*second);
        let next = history.limit(now, current, *wanted, spec);
        history.scaled(now, current, next, &spec.behavior);
        current = next;
        next
    };
    wishes.iter().map(decide).collect()
}

#[test]
fn up_by_four_or_by_as_many_as_there_are_every_fifteen_seconds() {
    let wishes = [(0, 30), (5, 30), (15, 30), (30, 30)];
    // 3 + 4; no more within the period; twice 7; and the bound.
    assert_eq!(follow(&spec(fast(), slow()), 3, &wishes), [7, 7, 14, 20]);
}

#[test]
fn down_by_a_tenth_a_minute_once_nobody_has_asked_for_more_for_five_minutes() {
    let every = |from: u64, to: u64| (from..=to).step_by(15).map(|second| (second, 1));
    let mut wishes = vec![(0, 20)];
    wishes.extend(every(15, 480));
    let replicas = follow(&spec(fast(), slow()), 20, &wishes);
    let at = |second: u64| replicas[second as usize / 15];
    // At 300 s the wish for 20 is over; 20, 18, 16 (nine tenths of 18 rounded down), 14, and one period more.
    assert_eq!(at(285), 20);
    assert_eq!([at(300), at(345), at(360), at(420), at(480)], [18, 18, 16, 14, 12]);
}

#[test]
fn of_a_few_one_goes_a_minute_and_the_fewest_stay() {
    let mut without_window = slow();
    without_window.window = Duration::ZERO;
    let wishes: Vec<_> = (0..=300).step_by(60).map(|second| (second, 1)).collect();
    assert_eq!(follow(&spec(fast(), without_window), 6, &wishes), [5, 4, 3, 3, 3, 3]);
}

#[test]
fn what_swings_within_the_window_moves_nothing() {
    let wishes: Vec<_> =
        (0..40).map(|turn| (turn * 15, if turn % 8 < 4 { 7 } else { 4 })).collect();
    let steady = follow(&spec(fast(), slow()), 7, &wishes);
    assert!(steady.iter().all(|replicas| *replicas == 7), "{steady:?}");
    // Without the window it would.
    let mut nervous = slow();
    nervous.window = Duration::ZERO;
    let swinging = follow(&spec(fast(), nervous), 7, &wishes);
    let changes = swinging.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes >= 8, "{swinging:?}");
}

#[test]
fn a_window_of_more_waits_for_a_wish_that_lasts() {
    let mut patient = fast();
    patient.window = Duration::from_secs(60);
    let wishes = [(0, 3), (15, 9), (30, 9), (45, 9), (60, 9)];
    assert_eq!(follow(&spec(patient, slow()), 3, &wishes), [3, 3, 3, 3, 7]);
}

#[test]
fn the_smallest_change_or_none_may_be_chosen() {
    let policies = [(Size::Percent(100), 15), (Size::Pods(1), 15)];
    let least = rules(0, Select::Min, &policies);
    let none = rules(0, Select::Disabled, &policies);
    assert_eq!(follow(&spec(least.clone(), slow()), 5, &[(0, 20)]), [6]);
    assert_eq!(follow(&spec(none.clone(), slow()), 5, &[(0, 20)]), [5]);
    assert_eq!(follow(&spec(fast(), least), 10, &[(0, 1)]), [9]);
    assert_eq!(follow(&spec(fast(), none), 10, &[(0, 1)]), [10]);
}
