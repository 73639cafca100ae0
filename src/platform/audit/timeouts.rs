//! Who waits for whom: whoever asks has to wait for longer than whom it asks.

use std::time::Duration;

use super::{
    deployment::{Deployment, Proxy, Workload},
    finding::{Rule, Verdict, broken, hold},
};
use crate::platform::{cache, http::layers, shutdown, storage};

/// The bounds of this configuration, of the servers, and of what stands before the replicas.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// `SHOAL_REQUEST_TIMEOUT_MS`.
    pub request: Duration,
    /// `SHOAL_BODY_TIMEOUT_MS`.
    pub body: Duration,
    /// `SHOAL_DB_ACQUIRE_TIMEOUT_MS`.
    pub acquire: Duration,
    /// `SHOAL_DB_LOOK_TIMEOUT_MS`.
    pub look: Duration,
    /// `SHOAL_REDIS_TIMEOUT_MS`.
    pub redis: Duration,
    /// `SHOAL_S3_TIMEOUT_MS`.
    pub s3: Duration,
    /// `SHOAL_JOB_LEASE_MS`.
    pub lease: Duration,
    /// `SHOAL_DRAIN_DELAY_MS` and `SHOAL_DRAIN_CAP_MS`.
    pub drain_delay: Duration,
    pub drain_cap: Duration,
    /// Those of the application's role, if Postgres was asked.
    pub role: Option<RoleTimeouts>,
    /// `query_wait_timeout` of PgBouncer, if it was asked.
    pub query_wait: Option<Duration>,
    pub proxy: Option<Proxy>,
}

/// What Postgres gives a session of the application's role; zero is no bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoleTimeouts {
    pub statement: Duration,
    pub lock: Duration,
    pub idle_in_transaction: Duration,
}

/// How one role of process ends.
pub(super) struct Ending {
    pub(super) drain: Duration,
    pub(super) workload: Workload,
}

pub(super) const RULES: [Rule<Timings>; 13] = [
    Rule {
        id: "timeouts.statement",
        why: "a statement that outlives its request works for nobody, and holds its connection",
        judge: |seen| {
            of_role(seen, |role| {
                bounded(
                    "statement_timeout",
                    role.statement,
                    "the deadline of a request",
                    seen.request,
                )
            })
        },
    },
    Rule {
        id: "timeouts.lock",
        why: "a lock that is waited for until the statement ends tells nobody that it was a lock",
        judge: |seen| {
            of_role(seen, |role| {
                bounded("lock_timeout", role.lock, "statement_timeout", role.statement)
            })
        },
    },
    Rule {
        id: "timeouts.idle_in_transaction",
        why: "a replica that freezes within a transaction blocks the others until its server \
              connection is closed",
        judge: |seen| {
            of_role(seen, |role| {
                let told = format!(
                    "idle_in_transaction_session_timeout {}",
                    shown(role.idle_in_transaction)
                );
                hold(!role.idle_in_transaction.is_zero(), told, IN_ROLES)
            })
        },
    },
    Rule {
        id: "timeouts.load_lease",
        why: "a cold cache entry is loaded by one process for all; a load that outlives its lease \
              is done by several",
        judge: |seen| {
            of_role(seen, |role| {
                bounded(
                    "statement_timeout",
                    role.statement,
                    "the lease to load an entry",
                    cache::LOAD_LEASE,
                )
            })
        },
    },
    Rule {
        id: "timeouts.burial",
        why: "a buried cache entry must stay so until its write is over, or an older value comes \
              back",
        judge: |seen| {
            let write = seen.request + layers::OVERTIME;
            bounded("a write", write, "what a buried entry is kept for", cache::BURIAL)
        },
    },
    Rule {
        id: "timeouts.query_wait",
        why: "a query that PgBouncer lets wait for longer than its request is run for nobody",
        judge: |seen| match seen.query_wait {
            Some(wait) => {
                bounded("query_wait_timeout", wait, "the deadline of a request", seen.request)
            }
            None => Verdict::Skipped("PgBouncer was not asked".to_owned(), CONSOLE.to_owned()),
        },
    },
    Rule {
        id: "timeouts.acquire",
        why: "who waits for a connection until the deadline has no time left to use it",
        judge: |seen| {
            bounded(
                "SHOAL_DB_ACQUIRE_TIMEOUT_MS",
                seen.acquire,
                "the deadline of a request",
                seen.request,
            )
        },
    },
    Rule {
        id: "timeouts.redis",
        why: "every request asks Redis first: one that is silent must leave time for Postgres",
        judge: |seen| {
            bounded("SHOAL_REDIS_TIMEOUT_MS", seen.redis, "the deadline of a request", seen.request)
        },
    },
    Rule {
        id: "timeouts.s3",
        why: "an S3 that is silent has to be told of before the request's time is over",
        judge: |seen| {
            let call = seen.s3 + storage::PLACE_WAIT;
            bounded(
                "SHOAL_S3_TIMEOUT_MS and its turn",
                call,
                "the deadline of a request",
                seen.request,
            )
        },
    },
    Rule {
        id: "timeouts.lease",
        why: "a worker whose lease ends while it renews it loses the job to another, which begins \
              it anew",
        judge: |seen| {
            let role = seen.role.unwrap_or_default();
            // Renewed after a third of it, by a loop that gives a silent primary up after this long.
            let renewed = seen.lease / 3 + role.statement + seen.look * 2;
            bounded("a renewal that is slow", renewed, "SHOAL_JOB_LEASE_MS", seen.lease)
        },
    },
    Rule {
        id: "timeouts.proxy",
        why: "a proxy that gives up first tells the client nothing of an answer that was on its \
              way, and repeats reads for nothing",
        judge: |seen| {
            of_proxy(seen.proxy.and_then(|proxy| proxy.read), |read| {
                bounded(
                    "the deadline of a request",
                    seen.request,
                    "the proxy's read time-out",
                    read,
                )
            })
        },
    },
    Rule {
        id: "timeouts.upload",
        why: "a file may come slowly: the proxy has to wait for its body and for the answer",
        judge: |seen| {
            of_proxy(seen.proxy.and_then(|proxy| proxy.longest_read), |read| {
                let upload = seen.body + seen.request;
                bounded("a slow upload", upload, "the proxy's longest read time-out", read)
            })
        },
    },
    Rule {
        id: "timeouts.keepalive",
        why: "a kept connection that outlives the drain delay is closed under the request that \
              uses it next",
        judge: |seen| match seen.proxy.and_then(|proxy| proxy.keepalive) {
            Some(kept) => bounded(
                "the proxy's idle connections",
                kept,
                "SHOAL_DRAIN_DELAY_MS",
                seen.drain_delay,
            ),
            None => Verdict::Skipped(
                "how long the proxy keeps idle connections is not known".to_owned(),
                "give its configuration by --nginx".to_owned(),
            ),
        },
    },
];

pub(super) const ENDING: [Rule<Ending>; 1] = [Rule {
    id: "timeouts.grace",
    why: "a process that is killed while it drains cuts requests off",
    judge: |seen| {
        let Some(grace) = seen.workload.grace else {
            return Verdict::Skipped(
                "how long it is given to end is not known".to_owned(),
                "say so by --grace and --pre-stop, or by --manifest".to_owned(),
            );
        };
        let needed = seen.workload.pre_stop + seen.drain + shutdown::STOP_WAIT;
        let told = format!(
            "preStop {}, drain {}, last tasks {}: {} of {}",
            shown(seen.workload.pre_stop),
            shown(seen.drain),
            shown(shutdown::STOP_WAIT),
            shown(needed),
            shown(grace),
        );
        let mend = format!("give it {} or more, or lower SHOAL_DRAIN_CAP_MS", shown(needed));
        hold(needed <= grace, told, mend)
    },
}];

const IN_ROLES: &str = "set it for the role, as postgres/roles.sql does: SET does not survive \
                        transaction pooling";
const CONSOLE: &str = "mend what pgbouncer.console tells of";

impl Timings {
    /// How a replica of the API and a worker end.
    pub(super) fn endings(&self, deployment: &Deployment) -> [(&'static str, Ending); 2] {
        // A worker's health is served through a drain as well, once its jobs have ended.
        let drain = self.drain_delay + self.drain_cap;
        let ending = |workload: &Workload| Ending { drain, workload: workload.clone() };
        [("api", ending(&deployment.api)), ("worker", ending(&deployment.worker))]
    }
}

/// The same rules for bounds that nobody runs yet: what does not hold, as sentences.
pub fn objections(seen: &Timings, deployment: &Deployment) -> Vec<String> {
    let endings = seen.endings(deployment);
    let of_endings = endings.iter().flat_map(|(_, ending)| broken(&ENDING, ending));
    broken(&RULES, seen).chain(of_endings).collect()
}

fn of_role(seen: &Timings, judge: impl FnOnce(RoleTimeouts) -> Verdict) -> Verdict {
    match seen.role {
        Some(role) => judge(role),
        None => Verdict::Skipped(
            "Postgres was not asked".to_owned(),
            "mend what postgres.reachable tells of".to_owned(),
        ),
    }
}

fn of_proxy(known: Option<Duration>, judge: impl FnOnce(Duration) -> Verdict) -> Verdict {
    match known {
        Some(read) => judge(read),
        None => Verdict::Skipped(
            "how long the proxy waits is not known".to_owned(),
            "say so by --proxy-timeout, or give its configuration by --nginx or --manifest"
                .to_owned(),
        ),
    }
}

/// Above zero, which is no bound at all, and below the other.
fn bounded(name: &str, value: Duration, above: &str, limit: Duration) -> Verdict {
    let told = format!("{name} {}, {above} {}", shown(value), shown(limit));
    let mend = format!("make {name} shorter than {above}, or that longer");
    hold(!value.is_zero() && value < limit, told, mend)
}

/// In the unit that reads best.
pub(super) fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".to_owned(),
        millis if millis % 1_000 == 0 => format!("{} s", millis / 1_000),
        millis => format!("{millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(matches!(judge(Some(40), 5), Verdict::Passed(_)));
        assert!(matches!(judge(Some(39), 5), Verdict::Failed(..)));
        assert!(matches!(judge(Some(35), 0), Verdict::Passed(_)));
        assert!(matches!(judge(None, 0), Verdict::Skipped(..)));
    }

    #[test]
    fn what_was_not_asked_is_skipped() {
        let unknown = Timings { role: None, query_wait: None, proxy: None, ..shipped() };
        let skipped = RULES.iter().filter(|r| matches!((r.judge)(&unknown), Verdict::Skipped(..)));
        assert_eq!(skipped.count(), 8);
    }
}
