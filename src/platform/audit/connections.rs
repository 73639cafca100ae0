//! Whether the largest fleet finds connections enough, from the processes to Postgres.

use super::{
    deployment::Deployment,
    finding::{Rule, Verdict, broken, hold},
};

/// What a process keeps open beside its pool: the connection that watches the server.
const WATCHING: u64 = 1;

/// What others need of Postgres, beside what it reserves for superusers: migrations, monitoring and
/// people. With the three reserved ones, the 10 that the documents speak of.
const OTHERS: u64 = 7;

/// One PgBouncer, the Postgres behind it, and who comes.
#[derive(Debug, Clone)]
pub struct Connections {
    pub deployment: Deployment,
    /// `SHOAL_DB_POOL_SIZE`.
    pub pool_size: u64,
    /// `max_client_conn` of PgBouncer.
    pub max_clients: Option<u64>,
    /// Server connections of one PgBouncer: its pool and its reserve.
    pub servers: Option<u64>,
    /// Those of them that are its reserve.
    pub reserve: u64,
    /// `max_connections` of Postgres, less those reserved.
    pub max_connections: Option<u64>,
}

pub(super) const RULES: [Rule<Connections>; 2] = [
    Rule {
        id: "connections.clients",
        why: "beyond max_client_conn PgBouncer refuses connections: the last replicas of a \
              scale-out would have no database",
        judge: clients,
    },
    Rule {
        id: "connections.servers",
        why: "beyond max_connections Postgres refuses: under load requests fail that fewer \
              connections would have served",
        judge: servers,
    },
];

/// Of one PgBouncer, should all the others of the same Postgres be away.
fn clients(seen: &Connections) -> Verdict {
    let Some(processes) = seen.deployment.most_processes() else {
        return Verdict::Skipped(
            "how many replicas and workers there may be is not known".to_owned(),
            "say so by --max-replicas and --max-workers, or by --manifest".to_owned(),
        );
    };
    let Some(most) = seen.max_clients else {
        return no_console();
    };
    let each = seen.pool_size + WATCHING;
    let wanted = u64::from(processes) * each;
    let told = format!("{processes} processes × {each} = {wanted} of {most} clients");
    let mend = format!("raise max_client_conn to {wanted} or more, or lower SHOAL_DB_POOL_SIZE");
    hold(wanted <= most, told, mend)
}

fn servers(seen: &Connections) -> Verdict {
    let Some(servers) = seen.servers else {
        return no_console();
    };
    let Some(max_connections) = seen.max_connections else {
        return Verdict::Skipped(
            "max_connections of the Postgres behind it is not known".to_owned(),
            "mend what keeps it from being asked".to_owned(),
        );
    };
    let poolers = u64::from(seen.deployment.poolers.unwrap_or(1));
    let (wanted, most) = (poolers * servers, max_connections.saturating_sub(OTHERS));
    let told =
        format!("{poolers} PgBouncer × {servers} = {wanted} of {most}, {OTHERS} kept for others");
    let mend = format!(
        "lower default_pool_size to {} or less, or raise max_connections",
        (most / poolers.max(1)).saturating_sub(seen.reserve)
    );
    hold(wanted <= most, told, mend)
}

fn no_console() -> Verdict {
    Verdict::Skipped(
        "PgBouncer was not asked".to_owned(),
        "mend what pgbouncer.console tells of".to_owned(),
    )
}

/// The same rules for numbers that nobody runs yet: what does not hold, as sentences.
pub fn objections(seen: &Connections) -> Vec<String> {
    broken(&RULES, seen).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::deployment::Workload, *};

    fn seen(replicas: u32, workers: u32, poolers: u32) -> Connections {
        let of = |most| Workload { most: Some(most), ..Workload::default() };
        Connections {
            deployment: Deployment {
                api: of(replicas),
                worker: of(workers),
                poolers: Some(poolers),
                ..Deployment::default()
            },
            pool_size: 10,
            max_clients: Some(1_000),
            servers: Some(40),
            reserve: 5,
            max_connections: Some(97),
        }
    }

    #[test]
    fn the_largest_fleet_fits_or_does_not() {
        for (replicas, workers, poolers, fits) in [
            (20, 10, 2, [true, true]),
            // 72 processes with their surge, of 11 connections each, are 792.
            (56, 1, 2, [true, true]),
            // 93 are 1,023.
            (72, 2, 2, [false, true]),
            (3, 1, 3, [true, false]),
        ] {
            let seen = seen(replicas, workers, poolers);
            let passed = RULES.map(|rule| matches!((rule.judge)(&seen), Verdict::Passed(_)));
            assert_eq!(passed, fits, "{replicas} {workers} {poolers}");
            assert_eq!(objections(&seen).len(), fits.iter().filter(|fits| !**fits).count());
        }
    }

    #[test]
    fn what_it_says_to_set_holds() {
        let crowded = seen(3, 1, 3);
        let Verdict::Failed(_, mend) = servers(&crowded) else { panic!("120 of 90") };
        // 30 each, of which five are the reserve.
        assert!(mend.contains("default_pool_size to 25 or less"), "{mend}");
        let mended = Connections { servers: Some(25 + crowded.reserve), ..crowded };
        assert!(matches!(servers(&mended), Verdict::Passed(_)));
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let unknown = Connections { deployment: Deployment::default(), ..seen(1, 1, 1) };
        assert!(matches!(clients(&unknown), Verdict::Skipped(..)));
        let unasked = Connections { max_clients: None, servers: None, ..seen(1, 1, 1) };
        assert!(matches!(clients(&unasked), Verdict::Skipped(..)));
        assert!(matches!(servers(&unasked), Verdict::Skipped(..)));
    }
}
