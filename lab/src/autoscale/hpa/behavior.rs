//! How much of what the metrics ask for happens now: stabilisation windows and policies.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;
use super::spec::{Behavior, Rules, Select, Size, Spec};

/// What was recommended and done, as far back as the rules look.
#[derive(Debug, Default)]
pub(super) struct History {
    recommended: VecDeque<(Moment, u32)>,
    /// Pods that were added, and pods that were taken away.
    ups: VecDeque<(Moment, u32)>,
    downs: VecDeque<(Moment, u32)>,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl History {
    /// From `current` replicas towards `wanted`, as far as windows, policies and bounds allow.
    pub(super) fn limit(&mut self, now: Moment, current: u32, wanted: u32, spec: &Spec) -> u32 {
        let steady = self.stabilize(now, current, wanted, &spec.behavior);
        if steady > current {
            let limit = self.up_to(now, current, &spec.behavior.up).max(current);
            steady.min(limit.min(spec.most))
        } else if steady < current {
            let limit = self.down_to(now, current, &spec.behavior.down).min(current);
            steady.max(limit.max(spec.fewest))
        } else {
            current
        }
    }

    /// Notes a change, and forgets those that no rule looks back to.
    pub(super) fn scaled(&mut self, now: Moment, from: u32, to: u32, behavior: &Behavior) {
        let longest = |rules: &Rules| rules.policies.iter().map(|policy| policy.period).max();
        let back = longest(&behavior.up).max(longest(&behavior.down)).unwrap_or_default();
        for events in [&mut self.ups, &mut self.downs] {
            forget(events, now, back);
        }
        if to > from {
            self.ups.push_back((now, to - from));
        } else if to < from {
            self.downs.push_back((now, from - to));
        }
    }

    /// More only as far as was asked for all through the window of `up`, fewer only as far as was asked for
    /// all through that of `down`.
    fn stabilize(&mut self, now: Moment, current: u32, wanted: u32, behavior: &Behavior) -> u32 {
        let within = |window: Duration| {
            let is_recent = move |at: Moment| at + window > now;
            self.recommended.iter().filter(move |(at, _)| is_recent(*at)).map(|(_, count)| *count)
        };
        let least = within(behavior.up.window).fold(wanted, u32::min);
        let most = within(behavior.down.window).fold(wanted, u32::max);
        // As it was asked for: what the windows made of it is nobody's recommendation.
        forget(&mut self.recommended, now, behavior.up.window.max(behavior.down.window));
        self.recommended.push_back((now, wanted));
        current.max(least).min(most)
    }

    fn up_to(&self, now: Moment, current: u32, rules: &Rules) -> u32 {
        self.limit_of(now, current, rules, Direction::Up)
    }

    fn down_to(&self, now: Moment, current: u32, rules: &Rules) -> u32 {
        self.limit_of(now, current, rules, Direction::Down)
    }

    fn limit_of(&self, now: Moment, current: u32, rules: &Rules, direction: Direction) -> u32 {
        let limits = rules.policies.iter().map(|policy| {
            let since = |events: &VecDeque<(Moment, u32)>| -> u32 {
                let is_recent = |at: Moment| at + policy.period > now;
                events.iter().filter(|(at, _)| is_recent(*at)).map(|(_, count)| count).sum()
            };
            // As many as there were when the period began.
            let base = (current + since(&self.downs)).saturating_sub(since(&self.ups));
            let part = |percent: u32| f64::from(base) * f64::from(percent) / 100.0;
            match (direction, policy.size) {
                (Direction::Up, Size::Pods(count)) => base.saturating_add(count),
                (Direction::Down, Size::Pods(count)) => base.saturating_sub(count),
                (Direction::Up, Size::Percent(percent)) => {
                    (f64::from(base) + part(percent)).ceil() as u32
                }
                // What is left is rounded down, so that one at least may go.
                (Direction::Down, Size::Percent(percent)) => {
                    (f64::from(base) - part(percent)).max(0.0) as u32
                }
            }
        });
        let chosen = match (direction, rules.select) {
            (_, Select::Disabled) => None,
            (Direction::Up, Select::Max) | (Direction::Down, Select::Min) => limits.max(),
            (Direction::Up, Select::Min) | (Direction::Down, Select::Max) => limits.min(),
        };
        chosen.unwrap_or(current)
    }
}

fn forget(events: &mut VecDeque<(Moment, u32)>, now: Moment, back: Duration) {
    while events.front().is_some_and(|(at, _)| *at + back <= now) {
        events.pop_front();
    }
}

#[cfg(test)]
#[path = "behavior_tests.rs"]
mod tests;
