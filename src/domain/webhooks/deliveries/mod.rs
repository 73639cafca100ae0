//! Deliveries: one event on its way to one endpoint.

mod jobs;
pub(super) mod queries;

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

pub(super) use self::jobs::Deliver;
pub(in crate::domain) use self::jobs::work;
use crate::platform::jobs::jittered;

/// What is sent, as Standard Webhooks has it.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) timestamp: OffsetDateTime,
    pub(super) data: &'a serde_json::Value,
}

/// The waits after each attempt that failed, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h,
/// 20 h, 24 h, as Standard Webhooks recommends. The last attempt is three days after the first.
const WAITS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// However long a receiver asks to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// How long to wait after the attempt of this number, the first being 1: ± 20 %, and no less than
/// its receiver asked for. `None` after the last.
fn wait_after(attempt: i16, retry_after: Option<Duration>) -> Option<Duration> {
    let index = usize::try_from(attempt).ok()?.checked_sub(1)?;
    let usual = jittered(Duration::from_secs(*WAITS.get(index)?));
    Some(usual.max(retry_after.unwrap_or_default().min(LONGEST_WAIT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_together_is_not_sent_again_together() {
        let wait = || wait_after(2, None).unwrap().as_secs_f64() / 300.0;
        let waits: Vec<f64> = (0..200).map(|_| wait()).collect();
        assert!(waits.iter().any(|wait| *wait < 0.95), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > 1.05), "{waits:?}");
    }

    #[test]
    fn waits_as_recommended_and_no_less_than_asked_for() {
        for (attempt, seconds) in (1..).zip(WAITS) {
            let wait = wait_after(attempt, None).unwrap().as_secs_f64() / seconds as f64;
            assert!((0.8..1.2).contains(&wait), "{attempt}: {wait}");
        }
        assert_eq!(wait_after(10, None), None);
        assert_eq!(wait_after(10, Some(Duration::from_secs(1))), None);
        let asked = |seconds| wait_after(1, Some(Duration::from_secs(seconds))).unwrap();
        assert_eq!(asked(60), Duration::from_secs(60));
        assert!(asked(1) >= Duration::from_secs(4));
        assert_eq!(asked(u64::MAX), LONGEST_WAIT);
    }
}
