//! How long to wait before the next attempt.

use std::time::Duration;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// With 12 attempts, the last is begun about 34 minutes after the first.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// 1 s, 2 s, 4 s, … up to 15 min, each ± 20 %, so that what failed together does not come back
/// together.
pub(super) fn exponential(attempt: i16) -> Duration {
    let doublings = u32::from(attempt.clamp(1, 20).unsigned_abs()) - 1;
    jittered(FIRST.saturating_mul(1 << doublings).min(LONGEST))
}

/// ± 20 %.
pub fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_bound() {
        for (attempt, expected) in [(1, 1), (2, 2), (5, 16), (11, 900), (i16::MAX, 900)] {
            let delay = exponential(attempt).as_secs_f64() / f64::from(expected);
            assert!((0.8..1.2).contains(&delay), "{attempt}: {delay}");
        }
    }

    #[test]
    fn what_failed_together_comes_back_apart() {
        let delays: Vec<f64> = (0..200).map(|_| exponential(1).as_secs_f64()).collect();
        assert!(delays.iter().any(|delay| *delay < 0.95), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay > 1.05), "{delays:?}");
    }
}
