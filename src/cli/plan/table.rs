//! Every number, and how it came about.

use std::fmt::Write as _;

use super::{
    measured::Measured,
    numbers::{BURST, Numbers, POOLERS, SPARE_CONNECTIONS, WATCHING},
};

pub(super) fn render(numbers: &Numbers, measured: &Measured) -> String {
    let Numbers { wanted, step, carried, .. } = numbers;
    let machine = &measured.machine;
    let mut text = format!(
        "{:.0} requests per second, 99 of 100 within {:.0} ms. Measured on {} ({}): one replica with a core to itself\n\
         answered {:.0} a second over {} connections, 99 of 100 within {:.1} ms.\n\n",
        wanted.per_second,
        wanted.p99_ms,
        machine.processor,
        machine.date.get(..10).unwrap_or(&machine.date),
        step.per_second,
        step.connections,
        step.p99_us / 1e3
    );
    let rows = rows(numbers);
    let width = |column: fn(&Row) -> &str| rows.iter().map(|row| column(row).len()).max();
    let (names, values) = (width(|row| row.0), width(|row| &row.1));
    let (names, values) = (names.unwrap_or_default(), values.unwrap_or_default());
    for (name, value, why) in &rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<names$}  {value:>values$}  {why}");
    }
    let _ = writeln!(
        text,
        "\nA replica is sure of {:.2} of a core, and so of {carried:.0} requests per second. `--format yaml` and `--format ini` \
         print this\nfor kustomize, PgBouncer and Postgres; `--out DIR` writes it.",
        wanted.cores
    );
    text
}

/// Name, value, reason.
type Row = (&'static str, String, String);

fn rows(numbers: &Numbers) -> Vec<Row> {
    let Numbers { wanted, step, carried, replicas, workers, pool, .. } = numbers;
    let (busy_primary, busy_replicas) = numbers.busy;
    let (most_replicas, most_workers) = (numbers.most_replicas, numbers.most_workers);
    let row = |name, value: u32, why: String| (name, value.to_string(), why);
    vec![
        row(
            "replicas at the peak",
            *replicas,
            format!(
                "{:.0} / {carried:.0} rounded up, and one that may be lost; 3 at least; a rolling deployment takes none away",
                wanted.per_second
            ),
        ),
        row("minReplicas", numbers.fewest_replicas, "a third of them; 3 at least".to_owned()),
        row(
            "maxReplicas",
            most_replicas,
            "twice as many: room for a peak that nobody planned".to_owned(),
        ),
        row(
            "http_requests_per_second",
            numbers.target,
            format!(
                "{carried:.0} × {} / {replicas}: the others carry all while one is away",
                replicas - 1
            ),
        ),
        row(
            "workers at the peak",
            *workers,
            format!(
                "{:.0} orders per second × {:.1} s a charge / {} at a time, and one that may be lost; 2 at least",
                numbers.orders_per_second, wanted.charge_seconds, wanted.charges_per_worker
            ),
        ),
        row("maxReplicas of workers", most_workers, "twice as many".to_owned()),
        row(
            "SHOAL_DB_POOL_SIZE",
            *pool,
            format!(
                "{carried:.0} per second × {:.0} µs a request × {BURST:.0} for bunches; 10 at least",
                step.primary_us + step.replicas_us
            ),
        ),
        row(
            "max_client_conn",
            numbers.most_clients,
            format!(
                "({most_replicas} + {most_workers}, and a quarter of each while they are rolled) × ({pool} + {WATCHING} that watches), all at one PgBouncer; 1,000 at least"
            ),
        ),
        row(
            "default_pool_size",
            numbers.server_pool,
            format!(
                "{busy_primary:.1} busy at the primary, {busy_replicas:.1} at its replicas; the larger × {BURST:.0}, of one PgBouncer alone; 20 at least"
            ),
        ),
        row(
            "max_connections",
            numbers.max_connections,
            format!(
                "{POOLERS} PgBouncers × {}, and {SPARE_CONNECTIONS} for people, migrations and replication, up to the next 50",
                numbers.server_pool
            ),
        ),
    ]
}
