//! Whether this machine's clock and a server's agree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::{Rule, hold};
use crate::platform::tokens;

/// A look at a server's clock: what it said, and when it was asked and had answered, in seconds
/// since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) asked: f64,
    pub(super) answered: f64,
    pub(super) theirs: f64,
}

pub(super) const RULES: [Rule<Look>; 1] = [Rule {
    id: "clock.skew",
    why: "access tokens are good within 30 s of their times by the clock of the replica that \
          looks",
    judge: |look| {
        let skew = look.skew();
        let told = format!("{:+.3} s, give or take {:.3} s", skew, look.doubt());
        let mend = "run a time daemon (chrony) on both machines";
        hold(skew.abs() + look.doubt() < tokens::LEEWAY.as_secs_f64(), told, mend)
    },
}];

impl Look {
    /// How much their clock is ahead, measured half-way of the round trip.
    fn skew(self) -> f64 {
        self.theirs - f64::midpoint(self.asked, self.answered)
    }

    fn doubt(self) -> f64 {
        (self.answered - self.asked).max(0.0) / 2.0
    }
}

/// This machine's clock, in seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn clocks_may_differ_by_less_than_the_leeway() {
        for (theirs, round_trip, agrees) in [
            (1_000.0, 0.0, true),
            (1_029.0, 0.0, true),
            (971.0, 0.0, true),
            (1_031.0, 0.0, false),
            (969.0, 0.0, false),
            // It may have been looked at by any end of the round trip.
            (1_029.0, 4.0, false),
        ] {
            let (asked, answered) = (1_000.0 - round_trip / 2.0, 1_000.0 + round_trip / 2.0);
            let verdict = (RULES[0].judge)(&Look { asked, answered, theirs });
            assert_eq!(matches!(verdict, Verdict::Passed(_)), agrees, "{theirs} {round_trip}");
        }
    }
}
