//! Replicas that lag, stand still and become primaries.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::postgres::OwnPostgres;
use lab::topology::{DATABASE, PostgresNode};
use lab::{Topology, install};

/// The binary that `cargo lab test` has built before the tests.
fn shoal() -> PathBuf {
    let test = std::env::current_exe().expect("it has a path");
    test.ancestors().nth(2).expect("it is below deps/").join("shoal")
}

fn start(replicas: usize) -> OwnPostgres {
    let topology = Topology::from_env().expect("`cargo lab test` runs this");
    let began = Instant::now();
    let own = OwnPostgres::start(&topology, &shoal(), replicas).expect("it starts");
    println!("{replicas} replicas and their primary took {:?}", began.elapsed());
    own
}

fn try_sql(own: &OwnPostgres, node: &PostgresNode, sql: &str) -> Result<String, String> {
    let psql = install::find().expect("the servers are installed").postgres_dir.join("psql");
    let url = node.direct_url(&own.topology().superuser, DATABASE);
    let output = Command::new(psql).args(["-XAtq", &url, "-c", sql]).output().expect("psql runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[track_caller]
fn sql(own: &OwnPostgres, node: &PostgresNode, sql: &str) -> String {
    try_sql(own, node, sql).unwrap_or_else(|error| panic!("{error}"))
}

/// Names in the schema, which stand for what a test writes.
const MARKS: &str = "select coalesce(string_agg(relname, ',' order by relname), '') \
                     from pg_class where relname like 'mark%'";

fn mark(own: &OwnPostgres, name: &str) {
    sql(own, &own.topology().primary, &format!("create table {name} ()"));
}

/// Asks until the answer is as expected; replication takes a moment.
#[track_caller]
fn eventually(own: &OwnPostgres, node: &PostgresNode, question: &str, expected: &str) {
    let began = Instant::now();
    loop {
        let answer = try_sql(own, node, question);
        if answer.as_deref() == Ok(expected) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{question}: {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What has arrived is all that the primary has written, whether it is replayed or not.
fn received_all(own: &OwnPostgres, node: &PostgresNode) {
    let written = sql(own, &own.topology().primary, "select pg_current_wal_lsn()");
    eventually(own, node, &format!("select pg_last_wal_receive_lsn() >= '{written}'::pg_lsn"), "t");
}

#[test]
fn its_replicas_follow_and_it_has_the_schema() {
    let own = start(2);
    let topology = own.topology().clone();
    let migrated = sql(&own, &topology.primary, "select count(*) > 0 from _sqlx_migrations");
    assert_eq!(migrated, "t");
    mark(&own, "mark");
    for replica in &topology.replicas {
        eventually(&own, replica, MARKS, "mark");
    }
    let standbys = "select string_agg(application_name || ' ' || state, ',' order by application_name) \
                    from pg_stat_replication";
    let follow = "postgres-replica-1 streaming,postgres-replica-2 streaming";
    eventually(&own, &topology.primary, standbys, follow);
    let too_many = OwnPostgres::start(&topology, &shoal(), 9).expect_err("there are 8 slots");
    assert!(too_many.to_string().contains("more than 8"), "{too_many}");
    let slots = "select count(*) || ' ' || bool_and(active) from pg_replication_slots";
    assert_eq!(sql(&own, &topology.primary, slots), "2 true");
}

#[test]
fn several_at_once_do_not_meet() {
    std::thread::scope(|scope| {
        for number in 0..3 {
            scope.spawn(move || {
                let own = start(1);
                let name = format!("mark_{number}");
                mark(&own, &name);
                eventually(&own, &own.topology().replicas[0].clone(), MARKS, &name);
            });
        }
    });
}

#[test]
fn a_replica_lags_while_the_other_does_not_and_is_healed_at_once() {
    let mut own = start(2);
    let [lagging, prompt] = [0, 1].map(|at| own.topology().replicas[at].clone());
    // Longer than anybody would wait.
    own.replicas[0].postgres.set_apply_delay(Duration::from_secs(3_600)).expect("it obeys");
    mark(&own, "mark");
    eventually(&own, &prompt, MARKS, "mark");
    received_all(&own, &lagging);
    assert_eq!(sql(&own, &lagging, MARKS), "");
    own.replicas[0].postgres.set_apply_delay(Duration::ZERO).expect("it obeys");
    eventually(&own, &lagging, MARKS, "mark");
}

#[test]
fn a_paused_replica_stands_still_until_it_is_resumed() {
    let mut own = start(1);
    let replica = own.topology().replicas[0].clone();
    own.replicas[0].postgres.pause_replay().expect("it obeys");
    mark(&own, "mark");
    received_all(&own, &replica);
    assert_eq!(sql(&own, &replica, MARKS), "");
    own.replicas[0].postgres.resume_replay().expect("it obeys");
    eventually(&own, &replica, MARKS, "mark");
}

#[test]
fn a_promoted_replica_takes_writes_and_the_old_primary_can_come_back() {
    let mut own = start(1);
    let [old, new] = [own.topology().primary.clone(), own.topology().replicas[0].clone()];
    mark(&own, "mark_1");
    eventually(&own, &new, MARKS, "mark_1");
    let refused = try_sql(&own, &new, "create table mark_2 ()").expect_err("it is a replica");
    assert!(refused.contains("read-only"), "{refused}");
    own.primary.postgres.process().kill();
    own.replicas[0].postgres.promote().expect("it obeys");
    sql(&own, &new, "create table mark_2 ()");
    assert_eq!(
        sql(&own, &new, "select left(pg_walfile_name(pg_current_wal_lsn()), 8)"),
        "00000002"
    );
    own.primary.postgres.process().restart().expect("it starts again");
    own.primary.postgres.wait_until_ready().expect("it gets ready");
    assert_eq!(sql(&own, &old, MARKS), "mark_1");
    let refused = own.primary.postgres.promote().expect_err("it is no replica").to_string();
    assert!(refused.contains("recovery is not in progress"), "{refused}");
}
