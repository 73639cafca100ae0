//! What has to be shorter than what.

use std::time::Duration;

use super::{Ending, RoleTimeouts, Timings, shown};
use crate::platform::{
    audit::finding::{Rule, Verdict, hold},
    cache, fleet,
    http::layers,
    shutdown, storage,
};

/// After the drain: the process leaves the fleet, then the last tasks end.
const LAST_STEPS: Duration = fleet::LEAVE_WAIT.saturating_add(shutdown::STOP_WAIT);

pub(in crate::platform::audit) const RULES: [Rule<Timings>; 13] = [
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
            of_role(seen, |role| {
                // Renewed after a third of it, by a loop that gives a silent primary up after this
                // long.
                let renewed = seen.lease / 3 + role.statement + seen.look * 2;
                bounded("a renewal that is slow", renewed, "SHOAL_JOB_LEASE_MS", seen.lease)
            })
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

pub(in crate::platform::audit) const ENDING: [Rule<Ending>; 1] = [Rule {
    id: "timeouts.grace",
    why: "a process that is killed while it drains cuts requests off",
    judge: |seen| {
        let Some(grace) = seen.workload.grace else {
            return Verdict::Skipped(
                "how long it is given to end is not known".to_owned(),
                "say so by --grace and --pre-stop, or by --manifest".to_owned(),
            );
        };
        if seen.workload.pre_stop_is_unknown {
            return Verdict::Skipped(
                "its preStop is no `sleep`: how long it takes is not known".to_owned(),
                "say so by --pre-stop".to_owned(),
            );
        }
        let needed = seen.workload.pre_stop + seen.drain + LAST_STEPS;
        let told = format!(
            "preStop {}, drain {}, last steps {}: {} of {}",
            shown(seen.workload.pre_stop),
            shown(seen.drain),
            shown(LAST_STEPS),
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
