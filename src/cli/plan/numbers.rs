//! The arithmetic: one function from wishes and figures to every number, with its reasons.

use super::measured::{Knee, Step};

/// Of each; one may be away.
const FEWEST_REPLICAS: u32 = 3;
const FEWEST_WORKERS: u32 = 2;
/// PgBouncers before each Postgres, of which one may be away.
pub(super) const POOLERS: u32 = 2;
/// What Postgres keeps for migrations, replication and people.
pub(super) const SPARE_CONNECTIONS: u32 = 10;
/// Requests come in bunches: room for so many times the mean.
pub(super) const BURST: f64 = 3.0;
/// Fewer would be no pool: cache misses alone may take six at once (`SHOAL_CACHE_LOADS`).
const SMALLEST_POOL: u32 = 10;
/// What a process has beside its pool: the connection that watches the server.
pub(super) const WATCHING: u32 = 1;
const SMALLEST_SERVER_POOL: u32 = 20;
/// A rolling deployment adds one in four (`maxSurge: 25%`).
pub(super) const SURGE: u32 = 4;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Requests, at the peak.
    pub(super) per_second: f64,
    pub(super) p99_ms: f64,
    /// Of a core, that a replica is sure of; at most 1.
    pub(super) cores: f64,
    pub(super) charge_seconds: f64,
    /// At a time.
    pub(super) charges_per_worker: u32,
    /// Of one Postgres.
    pub(super) most_connections: u32,
}

/// All that an installation is told.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) wanted: Wanted,
    /// The step of the measurement that everything goes by.
    pub(super) step: Step,
    /// Requests per second that a replica carries with what it is sure of.
    pub(super) carried: f64,
    /// At the peak.
    pub(super) replicas: u32,
    pub(super) fewest_replicas: u32,
    pub(super) most_replicas: u32,
    /// Requests per second and pod, for the autoscaler.
    pub(super) target: u32,
    pub(super) orders_per_second: f64,
    /// At the peak.
    pub(super) workers: u32,
    pub(super) most_workers: u32,
    /// Connections of one replica or worker to each PgBouncer.
    pub(super) pool: u32,
    /// Mean number of server connections in use at the peak: of the primary, of the replicas together.
    pub(super) busy: (f64, f64),
    /// Server connections of one PgBouncer.
    pub(super) server_pool: u32,
    /// Clients of one PgBouncer.
    pub(super) most_clients: u32,
    /// Of each Postgres.
    pub(super) max_connections: u32,
}

/// Why there are no numbers.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Impossible {
    #[error(
        "a p99 of {wanted:.0} ms was never measured: 99 of 100 requests took up to {best:.1} ms even over {connections} \
         connections; plan with --p99 {whole} or more, or measure on a faster machine and pass its bench.json by --bench",
        whole = best.ceil()
    )]
    TooFast { wanted: f64, best: f64, connections: u32 },
    #[error(
        "requests failed at every step of the measurement; measure again, and look at the log of the replica"
    )]
    NothingMeasured,
    #[error(
        "{per_second:.0} requests per second keep {busy:.0} server connections of a Postgres busy, which takes \
         max_connections = {needed}, and {most} are allowed; raise --most-connections if that Postgres has the memory and \
         the cores, read more from replicas, or part the data"
    )]
    TooManyConnections { per_second: f64, busy: f64, needed: u32, most: u32 },
    #[error(
        "{replicas:.0} replicas are more than can be planned for; plan with a larger --millicores, or part the load"
    )]
    TooManyReplicas { replicas: f64 },
}

/// Kubernetes' own limits are far below.
const MOST_REPLICAS: f64 = 10_000.0;

impl Numbers {
    /// # Errors
    /// What was never measured, or does not fit.
    pub(super) fn of(wanted: &Wanted, knee: &Knee) -> Result<Self, Impossible> {
        let step = step(wanted.p99_ms, knee)?.clone();
        let carried = step.per_second * wanted.cores.min(1.0);
        let needed = (wanted.per_second / carried).ceil();
        if needed > MOST_REPLICAS {
            return Err(Impossible::TooManyReplicas { replicas: needed });
        }
        // One more: whichever is lost, the others carry all.
        let replicas = (needed as u32 + 1).max(FEWEST_REPLICAS);
        let orders_per_second = wanted.per_second * knee.orders_share;
        let charges = orders_per_second * wanted.charge_seconds;
        let needed = (charges / f64::from(wanted.charges_per_worker)).ceil() as u32;
        let workers = (needed + 1).max(FEWEST_WORKERS);
        let (most_replicas, most_workers) = (replicas * 2, workers * 2);

        let held = (step.primary_us + step.replicas_us) / 1e6;
        let pool = at_least(SMALLEST_POOL, carried * held * BURST);
        let busy =
            (wanted.per_second * step.primary_us / 1e6, wanted.per_second * step.replicas_us / 1e6);
        let server_pool = at_least(SMALLEST_SERVER_POOL, busy.0.max(busy.1) * BURST);
        let numbers = Self {
            wanted: wanted.clone(),
            carried,
            replicas,
            fewest_replicas: replicas.div_ceil(3).max(FEWEST_REPLICAS),
            most_replicas,
            target: rounded(carried * f64::from(replicas - 1) / f64::from(replicas)),
            orders_per_second,
            workers,
            most_workers,
            pool,
            busy,
            server_pool,
            most_clients: clients([most_replicas, most_workers], pool)
                .next_multiple_of(100)
                .max(1000),
            max_connections: (POOLERS * server_pool + SPARE_CONNECTIONS)
                .next_multiple_of(50)
                .max(100),
            step,
        };
        if numbers.max_connections > wanted.most_connections {
            return Err(Impossible::TooManyConnections {
                per_second: wanted.per_second,
                busy: busy.0.max(busy.1),
                needed: numbers.max_connections,
                most: wanted.most_connections,
            });
        }
        Ok(numbers)
    }
}

/// Connections to a PgBouncer of so many replicas and workers while they are rolled: each role by
/// itself, as `shoal audit` counts them.
fn clients(roles: [u32; 2], pool: u32) -> u32 {
    let at_once: u32 = roles.iter().map(|most| most + most.div_ceil(SURGE)).sum();
    at_once * (pool + WATCHING)
}

/// The most that a replica carried with this p99, before requests only took longer.
fn step(p99_ms: f64, knee: &Knee) -> Result<&Step, Impossible> {
    let useful: Vec<&Step> = knee
        .steps
        .iter()
        .filter(|step| step.errors == 0 && step.connections <= knee.connections)
        .collect();
    let fastest = useful.iter().min_by(|a, b| f64::total_cmp(&a.p99_us, &b.p99_us));
    let fastest = *fastest.ok_or(Impossible::NothingMeasured)?;
    let in_time = useful.iter().filter(|step| step.p99_us <= p99_ms * 1e3);
    in_time.max_by(|a, b| f64::total_cmp(&a.per_second, &b.per_second)).copied().ok_or(
        Impossible::TooFast {
            wanted: p99_ms,
            best: fastest.p99_us / 1e3,
            connections: fastest.connections,
        },
    )
}

fn at_least(least: u32, value: f64) -> u32 {
    (value.ceil() as u32).max(least)
}

/// Down to two digits that matter: a target is no measurement.
fn rounded(value: f64) -> u32 {
    let power = 10_f64.powf((value.max(1.0).log10().floor() - 1.0).max(0.0));
    ((value / power).floor() * power).max(1.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(per_second: f64, p99_ms: f64) -> Wanted {
        Wanted {
            per_second,
            p99_ms,
            cores: 0.5,
            charge_seconds: 0.3,
            charges_per_worker: 32,
            most_connections: 500,
        }
    }

    fn step(connections: u32, per_second: f64, p99_us: f64) -> Step {
        Step { connections, per_second, p99_us, primary_us: 100.0, replicas_us: 50.0, errors: 0 }
    }

    fn knee() -> Knee {
        let steps = vec![
            step(1, 1_000.0, 2_000.0),
            step(8, 4_000.0, 10_000.0),
            step(64, 4_100.0, 90_000.0),
        ];
        Knee { orders_share: 0.025, steps, connections: 8 }
    }

    #[test]
    fn replicas_carry_the_peak_when_one_of_them_is_lost() {
        let numbers = Numbers::of(&wanted(10_000.0, 200.0), &knee()).unwrap();
        assert_eq!(numbers.step.connections, 8, "nothing beyond the knee");
        // Half of 4,000 each.
        assert_eq!((numbers.replicas, numbers.fewest_replicas, numbers.most_replicas), (6, 3, 12));
        assert_eq!(numbers.target, 1_600, "five sixths of 2,000, rounded down");
        let lost = f64::from(numbers.replicas - 1) * numbers.carried;
        assert!(lost >= 10_000.0);
        // 250 orders a second keep 75 charges on their way: three workers, and one more.
        assert_eq!((numbers.workers, numbers.most_workers), (4, 8));
    }

    #[test]
    fn connections_are_counted_by_littles_law() {
        let numbers = Numbers::of(&wanted(100_000.0, 200.0), &knee()).unwrap();
        // 100,000 × 100 µs are ten connections, three times that in a bunch.
        assert!((numbers.busy.0 - 10.0).abs() < 1e-9 && (numbers.busy.1 - 5.0).abs() < 1e-9);
        assert_eq!((numbers.server_pool, numbers.max_connections), (30, 100));
        assert_eq!(numbers.pool, 10);
        // 50 replicas carry it, and one more; 24 workers, and one more; twice as many of each.
        assert_eq!((numbers.most_replicas, numbers.most_workers), (102, 50));
        // 128 and 63 while they are rolled, with 11 connections each, are 2,101.
        assert_eq!(numbers.most_clients, 2_200);
    }

    #[test]
    fn clients_are_counted_by_role_with_the_one_that_watches() {
        assert_eq!(clients([20, 10], 10), (25 + 13) * 11);
        assert_eq!(clients([5, 5], 10), (7 + 7) * 11);
    }

    #[test]
    fn a_shorter_p99_takes_more_replicas() {
        let patient = Numbers::of(&wanted(10_000.0, 10.0), &knee()).unwrap();
        let hurried = Numbers::of(&wanted(10_000.0, 5.0), &knee()).unwrap();
        assert_eq!((patient.replicas, hurried.replicas), (6, 21));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_way_out() {
        let refusal =
            |wanted: &Wanted, knee: &Knee| Numbers::of(wanted, knee).unwrap_err().to_string();
        let fast = refusal(&wanted(10.0, 1.0), &knee());
        assert!(fast.contains("2.0 ms") && fast.contains("--p99 2"), "{fast}");
        let many = refusal(&wanted(1_000_000.0, 200.0), &knee());
        assert!(many.contains("max_connections = 650") && many.contains("500"), "{many}");
        let far = Wanted { most_connections: u32::MAX, ..wanted(4e9, 200.0) };
        assert!(refusal(&far, &knee()).contains("2000000 replicas"));
        let mut broken = knee();
        broken.steps.iter_mut().for_each(|step| step.errors = 1);
        assert_eq!(
            Numbers::of(&wanted(10.0, 200.0), &broken).unwrap_err(),
            Impossible::NothingMeasured
        );
    }

    #[test]
    fn a_little_shop_has_the_fewest_of_everything() {
        let numbers = Numbers::of(&wanted(1.0, 200.0), &knee()).unwrap();
        assert_eq!((numbers.replicas, numbers.workers, numbers.pool), (3, 2, 10));
        assert_eq!((numbers.most_clients, numbers.max_connections), (1000, 100));
    }

    #[test]
    fn targets_have_two_digits() {
        for (value, expected) in
            [(1_666.7, 1_600), (99.0, 99), (7.9, 7), (123_456.0, 120_000), (0.2, 1)]
        {
            assert_eq!(rounded(value), expected, "{value}");
        }
    }
}
