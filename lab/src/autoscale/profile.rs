//! How much is asked for, as time goes by.

use std::time::Duration;

use super::hpa::Moment;

/// Load over time, in units of what one replica is to carry: straight lines between points.
#[derive(Clone, Debug)]
pub struct Profile {
    points: Vec<(Moment, f64)>,
}

impl Profile {
    /// A day in short: quiet, a rise, a peak that swings faster than the window of stabilisation, and quiet
    /// again for as long as it takes to go back to `fewest` replicas.
    #[must_use]
    pub fn day(fewest: u32, peak: f64) -> Self {
        const MINUTE: u64 = 60;
        let quiet = f64::from(fewest) * 0.6;
        let mut points = vec![(0, quiet), (MINUTE, quiet), (3 * MINUTE, peak)];
        for swing in 0..3 {
            let begin = (4 + 2 * swing) * MINUTE;
            points.extend([
                (begin, peak),
                (begin + MINUTE, peak * 0.6),
                (begin + 2 * MINUTE, peak),
            ]);
        }
        let falling = 11 * MINUTE;
        // The window, a minute for each replica that leaves, and some to spare. Where the machine is slow there are
        // up to two more than the peak asks for.
        let most = peak.ceil() as u64 + 2;
        let over = falling + 9 * MINUTE + most.saturating_sub(u64::from(fewest)) * MINUTE;
        points.extend([(falling - MINUTE / 2, peak), (falling + MINUTE, quiet), (over, quiet)]);
        let at = |(second, load)| (Duration::from_secs(second), load);
        Self { points: points.into_iter().map(at).collect() }
    }

    /// When it is over.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.points.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    /// The most that is ever asked for.
    #[must_use]
    pub fn peak(&self) -> f64 {
        self.points.iter().map(|(_, load)| *load).fold(0.0, f64::max)
    }

    /// What is asked for at a moment.
    #[must_use]
    pub fn at(&self, now: Moment) -> f64 {
        let next = self.points.partition_point(|(at, _)| *at <= now);
        let (Some(before), Some(after)) =
            (next.checked_sub(1).and_then(|at| self.points.get(at)), self.points.get(next))
        else {
            let end = if next == 0 { self.points.first() } else { self.points.last() };
            return end.map_or(0.0, |(_, load)| *load);
        };
        let part = (now - before.0).div_duration_f64(after.0 - before.0);
        before.1 + (after.1 - before.1) * part
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Profile;

    #[test]
    fn between_points_the_load_is_on_a_straight_line() {
        let second = Duration::from_secs(1);
        let profile = Profile { points: vec![(10 * second, 2.0), (20 * second, 4.0)] };
        for (at, expected) in [(0, 2.0), (10, 2.0), (15, 3.0), (20, 4.0), (99, 4.0)] {
            assert!((profile.at(at * second) - expected).abs() < 1e-9, "at {at} s");
        }
        assert!(Profile { points: Vec::new() }.at(second) < 1e-9);
    }

    #[test]
    fn a_day_rises_swings_and_falls() {
        let minute = Duration::from_secs(60);
        let day = Profile::day(3, 7.0);
        assert!(day.points.is_sorted_by_key(|(at, _)| *at));
        assert!((day.peak() - 7.0).abs() < 1e-9);
        for (at, expected) in [(0, 1.8), (4, 7.0), (5, 4.2), (6, 7.0), (10, 7.0), (13, 1.8)] {
            assert!((day.at(at * minute) - expected).abs() < 1e-9, "at {at} min");
        }
        assert_eq!(day.length(), 26 * minute);
    }
}
