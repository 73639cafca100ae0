//! The arithmetic of the limit: what is late, and what follows from it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request may take on top of twice the route's shortest time, in microseconds: half of
/// the 200 ms that 99 of 100 requests are to stay below. Less would refuse where nobody notices a
/// queue: a thousand requests for what is cached are done within it.
const PATIENCE: u64 = 100_000;

/// How long it takes at least to double, in microseconds.
const DOUBLING: u64 = 800_000;

/// A cut leaves at least a quarter. More of one would rest on too few votes.
const DEEPEST_CUT: f64 = 0.25;

/// Whether more than this part of the votes were late decides. One route that stalls among
/// many that do not is no reason to refuse the others.
const LATE_PART: f64 = 0.25;

/// What was too long of a request is counted in parts of this.
const WHOLE: f64 = 1_000.0;

/// How long a request may take on a route whose shortest time is `shortest`.
pub(super) fn allowed(shortest: u64) -> u64 {
    shortest.saturating_mul(2).saturating_add(PATIENCE)
}

/// The votes of a window. A count and a sum that may be one vote apart, which changes nothing.
#[derive(Default)]
pub(super) struct Votes {
    /// All of them in the upper half, the late ones in the lower.
    counts: AtomicU64,
    excess: AtomicU64,
}

/// What the votes of a window came to.
pub(super) struct Tally {
    count: u32,
    late: u32,
    /// The sum over the late ones of the part of their time that was too long.
    excess: f64,
}

impl Votes {
    pub(super) fn cast(&self, took: u64, allowed: u64) {
        if took <= allowed {
            self.counts.fetch_add(1 << 32, Relaxed);
        } else {
            let too_long = (took - allowed) as f64 / took as f64;
            self.excess.fetch_add((too_long * WHOLE) as u64, Relaxed);
            self.counts.fetch_add((1 << 32) + 1, Relaxed);
        }
    }

    pub(super) fn count(&self) -> u32 {
        (self.counts.load(Relaxed) >> 32) as u32
    }

    /// Hands them over and begins anew.
    pub(super) fn take(&self) -> Tally {
        let counts = self.counts.swap(0, Relaxed);
        let excess = self.excess.swap(0, Relaxed);
        Tally { count: (counts >> 32) as u32, late: counts as u32, excess: excess as f64 / WHOLE }
    }
}

/// The limit after a window of `since` microseconds, before its bounds.
///
/// In a queue the time is in proportion to the length: if it was twice too long, half as many
/// would have been in time.
pub(super) fn next_limit(limit: usize, tally: &Tally, since: u64) -> usize {
    let count = f64::from(tally.count.max(1));
    if f64::from(tally.late) > count * LATE_PART {
        let in_time = 1.0 - tally.excess / count;
        return (limit as f64 * in_time.max(DEEPEST_CUT)) as usize;
    }
    let growth = limit as u64 * since.min(DOUBLING) / DOUBLING;
    limit + growth.max(1) as usize
}
