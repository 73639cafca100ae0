//! Each relation, kept and broken.

use std::time::Duration;

use super::{ENDING, Ending, RULES, RoleTimeouts, Timings};
use crate::platform::audit::{
    deployment::{Proxy, Workload},
    finding::{Rule, Verdict},
};

/// What is shipped.
fn shipped() -> Timings {
    let (secs, millis) = (Duration::from_secs, Duration::from_millis);
    Timings {
        request: secs(5),
        body: secs(30),
        acquire: secs(1),
        look: secs(1),
        redis: millis(100),
        s3: secs(2),
        lease: secs(30),
        drain_delay: secs(5),
        drain_cap: secs(25),
        role: Some(RoleTimeouts {
            statement: secs(3),
            lock: secs(1),
            idle_in_transaction: secs(5),
        }),
        query_wait: Some(secs(3)),
        proxy: Some(Proxy {
            read: Some(secs(8)),
            longest_read: Some(secs(40)),
            keepalive: Some(secs(4)),
        }),
    }
}

fn failed(timings: &Timings) -> Vec<&'static str> {
    let fails = |rule: &&Rule<Timings>| matches!((rule.judge)(timings), Verdict::Failed(..));
    RULES.iter().filter(fails).map(|rule| rule.id).collect()
}

fn with(change: impl FnOnce(&mut Timings)) -> Timings {
    let mut timings = shipped();
    change(&mut timings);
    timings
}

#[test]
fn each_relation_that_is_broken_is_told_and_no_other() {
    let (secs, millis) = (Duration::from_secs, Duration::from_millis);
    let role = |change: fn(&mut RoleTimeouts)| with(|t| t.role.iter_mut().for_each(change));
    let proxy = |change: fn(&mut Proxy)| with(|t| t.proxy.iter_mut().for_each(change));
    assert_eq!(failed(&shipped()), [""; 0]);
    for (broken, told) in [
        (role(|r| r.lock = Duration::from_secs(3)), "timeouts.lock"),
        (role(|r| r.lock = Duration::ZERO), "timeouts.lock"),
        (role(|r| r.idle_in_transaction = Duration::ZERO), "timeouts.idle_in_transaction"),
        (role(|r| r.statement = Duration::from_millis(4_500)), "timeouts.load_lease"),
        (with(|t| t.query_wait = Some(secs(120))), "timeouts.query_wait"),
        (with(|t| t.query_wait = Some(Duration::ZERO)), "timeouts.query_wait"),
        (with(|t| t.acquire = secs(5)), "timeouts.acquire"),
        (with(|t| t.redis = secs(6)), "timeouts.redis"),
        (with(|t| t.s3 = millis(4_500)), "timeouts.s3"),
        (with(|t| t.lease = secs(7)), "timeouts.lease"),
        (proxy(|p| p.read = Some(Duration::from_secs(5))), "timeouts.proxy"),
        (proxy(|p| p.longest_read = Some(Duration::from_secs(35))), "timeouts.upload"),
        (with(|t| t.drain_delay = secs(4)), "timeouts.keepalive"),
    ] {
        assert_eq!(failed(&broken), [told]);
    }
    // These two are bounds of others as well.
    let slow = role(|r| r.statement = Duration::from_secs(5));
    assert!(failed(&slow).contains(&"timeouts.statement"));
    let patient = with(|t| t.request = secs(25));
    assert!(failed(&patient).contains(&"timeouts.burial"));
}

#[test]
fn an_end_takes_what_comes_before_the_signal_as_well() {
    let judge = |grace: Option<u64>, pre_stop| {
        let workload = Workload {
            grace: grace.map(Duration::from_secs),
            pre_stop: Duration::from_secs(pre_stop),
            ..Workload::default()
        };
        (ENDING[0].judge)(&Ending { drain: Duration::from_secs(30), workload })
    };
    assert!(matches!(judge(Some(43), 5), Verdict::Passed(_)));
    assert!(matches!(judge(Some(42), 5), Verdict::Failed(..)));
    assert!(matches!(judge(Some(38), 0), Verdict::Passed(_)));
    assert!(matches!(judge(None, 0), Verdict::Skipped(..)));
    let hooked = Workload {
        grace: Some(Duration::from_secs(45)),
        pre_stop_is_unknown: true,
        ..Workload::default()
    };
    let ending = Ending { drain: Duration::from_secs(30), workload: hooked };
    assert!(matches!((ENDING[0].judge)(&ending), Verdict::Skipped(..)));
}

#[test]
fn what_was_not_asked_is_skipped() {
    let unknown = Timings { role: None, query_wait: None, proxy: None, ..shipped() };
    let skipped = RULES.iter().filter(|r| matches!((r.judge)(&unknown), Verdict::Skipped(..)));
    assert_eq!(skipped.count(), 9);
}
