//! A streaming replica: whether it is one, of this primary, and how far behind.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use super::{
    finding::{Rule, Verdict, hold},
    postgres::{Server, Standby, connect, told},
    queries,
    timeouts::shown,
};

/// Between two looks at a replica that has not caught up.
const PAUSE: Duration = Duration::from_millis(10);

/// A replica, the primary that it should follow, and what is asked of it.
pub(super) struct Replica {
    pub(super) server: Server,
    pub(super) standby: Standby,
    /// Of the primary's cluster, if that could be asked.
    pub(super) system: Option<String>,
    /// How long it took to replay what the primary had; else why that is not known.
    pub(super) lag: Lag,
    /// `SHOAL_DB_MAX_REPLICA_LAG_MS`.
    pub(super) most_lag: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Lag {
    Within(Duration),
    /// It had not, after this long.
    Beyond(Duration),
    Unknown(String),
}

pub(super) const RULES: [Rule<Replica>; 6] = [
    Rule {
        id: "replica.standby",
        why: "what is written to a server that no longer follows, nobody else ever sees",
        judge: |seen| {
            let told = match (seen.server.is_in_recovery, seen.server.is_read_only) {
                (true, true) => "in recovery, read-only",
                (true, false) => "in recovery, but takes writes",
                (false, _) => "not in recovery: a primary",
            };
            hold(
                seen.server.is_in_recovery && seen.server.is_read_only,
                told,
                "make it anew from the primary (pg_basebackup), or take it out of \
                 DATABASE_REPLICA_URLS",
            )
        },
    },
    Rule {
        id: "replica.cluster",
        why: "a replica of another cluster has other data",
        judge: |seen| match &seen.system {
            None => needs_primary(),
            Some(system) => hold(
                *system == seen.server.system,
                format!("of cluster {}", seen.server.system),
                format!("the primary's is {system}: look where the URL leads"),
            ),
        },
    },
    Rule {
        id: "replica.streaming",
        why: "a replica whose stream has ended is left behind, and then not read from",
        judge: |seen| match &seen.standby.receiver {
            _ if !seen.server.is_in_recovery => no_standby(),
            Some(status) => {
                hold(status == "streaming", format!("its receiver is {status}"), STREAM)
            }
            None => Verdict::Failed("receives nothing".to_owned(), STREAM.to_owned()),
        },
    },
    Rule {
        id: "replica.lag",
        why: "beyond SHOAL_DB_MAX_REPLICA_LAG_MS it is not read from, and the primary has all reads",
        judge: lag,
    },
    Rule {
        id: "replica.conflicts",
        why: "a query may hold up the replay for as long as max_standby_streaming_delay: one query \
              must not take the replica out",
        judge: |seen| {
            let told = match seen.standby.delay {
                Some(delay) => format!("max_standby_streaming_delay {}", shown(delay)),
                None => "max_standby_streaming_delay is for ever".to_owned(),
            };
            hold(
                seen.standby.delay.is_some_and(|delay| delay < seen.most_lag),
                told,
                format!("set it below SHOAL_DB_MAX_REPLICA_LAG_MS, {}", shown(seen.most_lag)),
            )
        },
    },
    Rule {
        id: "replica.feedback",
        why: "without hot_standby_feedback queries are cancelled that need rows the primary has \
              removed; with it, a long query keeps the primary from removing them",
        judge: |seen| {
            let feedback = seen.server.settings.get("hot_standby_feedback");
            Verdict::Noted(format!("hot_standby_feedback {}", feedback.map_or("", String::as_str)))
        },
    },
];

const STREAM: &str = "look into its log: the primary cannot be reached, its slot is gone, or the \
                      log it needs is (then make it anew). Without pg_read_all_stats the \
                      application's role cannot see it: postgres/roles.sql grants that";

fn no_standby() -> Verdict {
    Verdict::Skipped("it is no standby".to_owned(), "mend what replica.standby tells of".to_owned())
}

fn needs_primary() -> Verdict {
    Verdict::Skipped(
        "the primary could not be asked".to_owned(),
        "mend what postgres.reachable tells of".to_owned(),
    )
}

fn lag(seen: &Replica) -> Verdict {
    const MEND: &str = "look for what it waits for: a long query on it, its disk, \
                        recovery_min_apply_delay";
    if !seen.server.is_in_recovery {
        return no_standby();
    }
    if seen.standby.is_paused {
        let resume = "select pg_wal_replay_resume() on it, as a superuser";
        return Verdict::Failed("its replay is paused".to_owned(), resume.to_owned());
    }
    match &seen.lag {
        Lag::Within(lag) => {
            let told = format!("had replayed the primary's log within {}", shown(*lag));
            hold(*lag <= seen.most_lag, told, MEND)
        }
        Lag::Beyond(waited) => {
            let told = format!("had not replayed the primary's log after {}", shown(*waited));
            if *waited < seen.most_lag {
                let limit = shown(seen.most_lag);
                let told = format!("{told}, and may for {limit}");
                return Verdict::Skipped(told, format!("raise --patience to {limit} or more"));
            }
            Verdict::Failed(told, MEND.to_owned())
        }
        Lag::Unknown(why) => {
            Verdict::Skipped(why.clone(), "mend what postgres.reachable tells of".to_owned())
        }
    }
}

/// Looks how far the primary is, and waits until the replica is there: that long it lags. Waits
/// for no longer than the replica may lag; to connect, which tells nothing of that, may take
/// longer.
pub(super) async fn measure(
    primary: &SecretString,
    replica: &SecretString,
    most_lag: Duration,
    patience: Duration,
) -> Lag {
    let most = most_lag.min(patience);
    let unknown = |why: &str| Lag::Unknown(format!("the lag cannot be measured: {why}"));
    let both = async { tokio::try_join!(connect(primary), connect(replica)) };
    let (mut primary, mut replica) = match timeout(patience, both).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(why)) => return unknown(&why),
        Err(_) => return unknown("no answer in time"),
    };
    let begun = Instant::now();
    let wait = async {
        let position = queries::flushed(&mut primary).await?;
        while queries::replayed(&mut replica).await? < position {
            sleep(PAUSE).await;
        }
        Ok::<_, sqlx::Error>(())
    };
    match timeout(most, wait).await {
        Ok(Ok(())) => Lag::Within(begun.elapsed()),
        Ok(Err(error)) => unknown(&told(&error)),
        Err(_) => Lag::Beyond(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Replica {
        Replica {
            server: Server {
                is_in_recovery: true,
                is_read_only: true,
                system: "7".to_owned(),
                ..Server::default()
            },
            standby: Standby {
                receiver: Some("streaming".to_owned()),
                is_paused: false,
                delay: Some(Duration::from_secs(2)),
            },
            system: Some("7".to_owned()),
            lag: Lag::Within(Duration::from_millis(3)),
            most_lag: Duration::from_secs(5),
        }
    }

    fn failed(change: impl FnOnce(&mut Replica)) -> Vec<&'static str> {
        let mut replica = sound();
        change(&mut replica);
        let fails = |rule: &&Rule<Replica>| matches!((rule.judge)(&replica), Verdict::Failed(..));
        RULES.iter().filter(fails).map(|rule| rule.id).collect()
    }

    #[test]
    fn each_fault_is_told_and_no_other() {
        let secs = Duration::from_secs;
        assert_eq!(failed(|_| {}), [""; 0]);
        assert_eq!(failed(|r| r.server.is_in_recovery = false), ["replica.standby"]);
        assert_eq!(failed(|r| r.system = Some("8".to_owned())), ["replica.cluster"]);
        assert_eq!(failed(|r| r.standby.receiver = None), ["replica.streaming"]);
        assert_eq!(failed(|r| r.standby.is_paused = true), ["replica.lag"]);
        assert_eq!(failed(|r| r.lag = Lag::Beyond(secs(5))), ["replica.lag"]);
        assert_eq!(failed(|r| r.lag = Lag::Within(secs(6))), ["replica.lag"]);
        assert_eq!(failed(|r| r.standby.delay = None), ["replica.conflicts"]);
        assert_eq!(failed(|r| r.standby.delay = Some(secs(5))), ["replica.conflicts"]);
        assert_eq!(failed(|r| r.lag = Lag::Unknown(String::new())), [""; 0]);
        // Given up before it had lagged for too long.
        assert_eq!(failed(|r| r.lag = Lag::Beyond(secs(4))), [""; 0]);
        let verdict = lag(&Replica { lag: Lag::Beyond(secs(4)), ..sound() });
        let Verdict::Skipped(_, help) = verdict else { panic!("{verdict:?}") };
        assert!(help.contains("--patience to 5 s"), "{help}");
    }
}
