//! Replicas and primaries that die, freeze, part ways or come back as something else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lab::{
    fault::{Fault, FaultProxy},
    postgres::OwnPostgres,
};
use shoal::platform::db::{Consistency, Db, Error};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::timeout;

use crate::{
    routing::{in_rotation, read, source, write},
    support::{Fleet, metric, own_postgres, until},
};

/// What hangs without the guard that is tested would hang for ever.
const FOR_EVER: Duration = Duration::from_secs(20);

const PRIMARY_LEFT_ALONE: &str = "circuit_breaker_state{target=\"primary\"}";

/// A way to each server that the test can disturb; the primary's first.
pub fn ways(own: &OwnPostgres) -> Vec<FaultProxy> {
    let nodes = std::iter::once(&own.primary).chain(&own.replicas);
    nodes.map(|node| FaultProxy::before(node.pooler.port()).unwrap()).collect()
}

async fn fleet_through(own: &OwnPostgres, ways: &[FaultProxy]) -> Fleet {
    let ports: Vec<u16> = ways.iter().map(FaultProxy::port).collect();
    let fleet = Fleet::of(1).postgres(own).await.primary_pooler(ports[0]);
    let fleet = fleet.replica_poolers(&ports[1..]).set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "2000");
    let fleet = fleet.start().await;
    in_rotation(&fleet, &(1..ways.len()).collect::<Vec<_>>()).await;
    fleet
}

/// Reads without a pause until told to stop; how many there were. None may fail or hang.
async fn read_on(db: Db, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        let mut conn = timeout(FOR_EVER, db.read(&Consistency::Any)).await.unwrap().unwrap();
        let users = sqlx::query_scalar::<_, i64>("select count(*) from users where name <> $1");
        timeout(FOR_EVER, users.bind("nobody").fetch_one(&mut conn)).await.unwrap().unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_costs_no_read() {
    let mut own = own_postgres(2);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1, 2]).await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(read_on(fleet.app().db.clone(), stop.clone(), count.clone())))
        .collect();
    until(async || count.load(Ordering::Relaxed) > 100).await;
    own.replicas[0].postgres.process().kill();
    in_rotation(&fleet, &[2]).await;
    let before = count.load(Ordering::Relaxed);
    until(async || count.load(Ordering::Relaxed) > before + 100).await;
    // Once more, with the second one: nothing is left but the primary.
    own.replicas[1].postgres.process().kill();
    in_rotation(&fleet, &[]).await;
    own.replicas[0].postgres.process().restart().unwrap();
    in_rotation(&fleet, &[1]).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_under_way_leave_a_frozen_replica() {
    let mut own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1]).await;
    let db = &fleet.app().db;
    let mut conn = db.read(&Consistency::Any).await.unwrap();
    assert_eq!(source(&mut conn).await, own.replicas[0].postgres.port());
    own.replicas[0].pooler.process().pause();
    // Sent to nobody, since its connection is open and nothing answers.
    let moved = timeout(FOR_EVER, source(&mut conn)).await.unwrap();
    assert_eq!(moved, own.primary.postgres.port());
    assert_eq!(metric(&fleet, "db_reads_total{reason=\"moved\",target=\"primary\"}"), 1.0);
    // And it stays where it is.
    assert_eq!(source(&mut conn).await, own.primary.postgres.port());
    assert_eq!(read(db, Consistency::Any).await, own.primary.postgres.port());
    own.replicas[0].pooler.process().resume();
    in_rotation(&fleet, &[1]).await;
    assert_eq!(read(db, Consistency::Any).await, own.replicas[0].postgres.port());
}

/// A connection that broke before says nothing about the replica now.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_an_earlier_stay_does_not_take_the_replica_out() {
    let own = own_postgres(1);
    let ways = ways(&own);
    let fleet = fleet_through(&own, &ways).await;
    let db = &fleet.app().db;
    let mut old = db.read(&Consistency::Any).await.unwrap();
    ways[1].set(Fault::Down).unwrap();
    in_rotation(&fleet, &[]).await;
    ways[1].clear().unwrap();
    in_rotation(&fleet, &[1]).await;
    let left = metric(&fleet, "db_reads_total{reason=\"no_replica\",target=\"primary\"}");
    assert_eq!(source(&mut old).await, own.primary.postgres.port());
    assert_eq!(read(db, Consistency::Any).await, own.replicas[0].postgres.port());
    let after = metric(&fleet, "db_reads_total{reason=\"no_replica\",target=\"primary\"}");
    assert_eq!(left, after);
}

/// An error that the primary would give as well is not tried again there.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_statement_is_told_and_moves_nothing() {
    let own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1]).await;
    let mut conn = fleet.app().db.read(&Consistency::Any).await.unwrap();
    assert!(sqlx::query("select 1 / 0").execute(&mut conn).await.is_err());
    assert_eq!(source(&mut conn).await, own.replicas[0].postgres.port());
    // Above all no write, which would get through there.
    let write = sqlx::query("update users set name = 'x'").execute(&mut conn).await;
    assert!(matches!(Error::from(write.unwrap_err()), Error::Unavailable(_)));
    assert!(fleet.app().db.states().iter().all(|state| state.up));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_is_not_read_from() {
    let mut own = own_postgres(2);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1, 2]).await;
    own.replicas[0].postgres.promote().unwrap();
    in_rotation(&fleet, &[2]).await;
    for _ in 0..10 {
        let source = read(&fleet.app().db, Consistency::Any).await;
        assert_eq!(source, own.replicas[1].postgres.port());
    }
}

/// The first replica takes over; the second is not told, and goes on following the old primary.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_a_replica_of_the_old_primary_is_left_out() {
    let mut own = own_postgres(2);
    let ways = ways(&own);
    let fleet = fleet_through(&own, &ways).await;
    let db = &fleet.app().db;
    own.replicas[0].postgres.promote().unwrap();
    let successor = own.replicas[0].pooler.port();
    ways[0].lead_to(([127, 0, 0, 1], successor).into()).unwrap();
    ways[0].reset().unwrap();
    in_rotation(&fleet, &[]).await;
    // It may be as far, or further, by the number alone.
    write(&fleet).await;
    let (_, lost) = write(&fleet).await;
    until(async || db.states()[0].up).await;
    let new = own.replicas[0].postgres.port();
    for consistency in [Consistency::Any, Consistency::Latest, Consistency::AtLeast(lost)] {
        assert_eq!(read(db, consistency).await, new);
    }
    assert!(db.states().iter().all(|state| state.up == (state.name == "primary")));
}

/// Told to follow the successor, a replica is back at once, not only at its next restart point.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_a_replica_of_the_new_primary_is_read_from() {
    let mut own = own_postgres(2);
    let ways = ways(&own);
    let fleet = fleet_through(&own, &ways).await;
    let db = &fleet.app().db;
    fleet.database.replicated().await;
    own.primary.postgres.process().kill();
    own.replicas[0].postgres.promote().unwrap();
    let new = own.replicas[0].postgres.port();
    ways[0].lead_to(([127, 0, 0, 1], own.replicas[0].pooler.port()).into()).unwrap();
    ways[0].reset().unwrap();
    follow(&own, 1, new).await;
    until(async || db.states()[0].up).await;
    in_rotation(&fleet, &[2]).await;
    let mut primary = superuser_at(&own, new).await;
    primary.execute("update users set name = 'after'").await.unwrap();
    let position = "select pg_current_wal_flush_lsn()::text";
    let lsn: String = sqlx::query_scalar(position).fetch_one(&mut primary).await.unwrap();
    let lsn = lsn.parse().unwrap();
    let second = own.replicas[1].postgres.port();
    until(async || read(db, Consistency::AtLeast(lsn)).await == second).await;
}

/// Makes a replica follow another primary.
async fn follow(own: &OwnPostgres, replica: usize, port: u16) {
    let mut replica = superuser_at(own, own.replicas[replica].postgres.port()).await;
    let slot = "select current_setting('primary_slot_name')";
    let slot: String = sqlx::query_scalar(slot).fetch_one(&mut replica).await.unwrap();
    let slot = format!("select pg_create_physical_replication_slot('{slot}')");
    superuser_at(own, port).await.execute(AssertSqlSafe(slot)).await.unwrap();
    let conninfo = "select current_setting('primary_conninfo')";
    let conninfo: String = sqlx::query_scalar(conninfo).fetch_one(&mut replica).await.unwrap();
    let old = format!("port={}", own.primary.postgres.port());
    let conninfo = conninfo.replace(&old, &format!("port={port}"));
    let alter = format!("alter system set primary_conninfo = '{conninfo}'");
    replica.execute(AssertSqlSafe(alter)).await.unwrap();
    replica.execute("select pg_reload_conf()").await.unwrap();
}

pub async fn superuser_at(own: &OwnPostgres, port: u16) -> PgConnection {
    let topology = own.topology();
    let url = topology.superuser_url("shoal");
    let url = url.replace(&topology.primary.port.to_string(), &port.to_string());
    PgConnection::connect(&url).await.unwrap()
}

/// A read that stands in the way of the log is cancelled there, and gets its answer all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_a_replica_cancels_is_answered_by_the_primary() {
    let own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1]).await;
    let mut conn = fleet.app().db.read(&Consistency::Any).await.unwrap();
    let slow = "select case when pg_is_in_recovery() then pg_sleep(15)::text end,
        inet_server_port() from (select count(*) from users) as counted";
    let under_way = tokio::spawn(async move {
        let answer: (Option<String>, i32) =
            sqlx::query_as(slow).fetch_one(&mut conn).await.unwrap();
        answer.1
    });
    let mut replica = superuser_at(&own, own.replicas[0].postgres.port()).await;
    let runs = "select exists (select from pg_stat_activity where wait_event = 'PgSleep')";
    until(async || sqlx::query_scalar(runs).fetch_one(&mut replica).await.unwrap()).await;
    let mut primary = fleet.database.connect().await;
    primary.execute("alter table users add column nothing int").await.unwrap();
    assert_eq!(under_way.await.unwrap(), i32::from(own.primary.postgres.port()));
    assert!(fleet.app().db.states().iter().all(|state| state.up), "it is no reason to leave");
}

/// Same cluster by its identifier, but no copy of this primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_what_the_primary_never_wrote_is_left_out() {
    let (own, other) = (own_postgres(1), own_postgres(1));
    let elsewhere = Fleet::of(1).postgres(&other).await.start().await;
    for _ in 0..50 {
        write(&elsewhere).await;
    }
    elsewhere.database.replicated().await;
    let replicas = [own.replicas[0].pooler.port(), other.replicas[0].pooler.port()];
    let fleet = Fleet::of(1).postgres(&own).await.replica_poolers(&replicas).start().await;
    in_rotation(&fleet, &[1]).await;
    for _ in 0..200 {
        let source = read(&fleet.app().db, Consistency::Any).await;
        assert_ne!(source, other.replicas[0].postgres.port());
    }
}

/// What a demoted primary shows may be old.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_in_the_primarys_place_is_not_taken_for_it() {
    let own = own_postgres(2);
    let ways = ways(&own);
    let fleet = fleet_through(&own, &ways).await;
    let db = &fleet.app().db;
    ways[0].lead_to(([127, 0, 0, 1], own.replicas[0].pooler.port()).into()).unwrap();
    ways[0].reset().unwrap();
    let is_refused = async || {
        matches!(db.read(&Consistency::Latest).await, Err(Error::Unreachable("primary", _)))
    };
    until(async || is_refused().await && !db.states()[0].up).await;
    assert!(matches!(db.begin().await, Err(Error::Unreachable("primary", _))));
    assert_ne!(read(db, Consistency::Any).await, own.primary.postgres.port());
    ways[0].lead_to(([127, 0, 0, 1], own.primary.pooler.port()).into()).unwrap();
    ways[0].reset().unwrap();
    until(async || db.states()[0].up).await;
    assert_eq!(read(db, Consistency::Latest).await, own.primary.postgres.port());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_primary_replicas_serve_and_the_rest_fails_at_once() {
    let own = own_postgres(2);
    let ways = ways(&own);
    let fleet = fleet_through(&own, &ways).await;
    let db = &fleet.app().db;
    let (_, lsn) = write(&fleet).await;
    fleet.database.replicated().await;
    // The worst kind: every connection would take until its time-out.
    ways[0].set(Fault::Drop).unwrap();
    until(async || metric(&fleet, PRIMARY_LEFT_ALONE) == 1.0).await;
    let connected = ways[0].accepted();
    for _ in 0..200 {
        let latest = db.read(&Consistency::Latest).await;
        assert!(matches!(latest, Err(Error::Unreachable("primary", _))), "{latest:?}");
        assert!(matches!(db.begin().await, Err(Error::Unreachable("primary", _))));
        assert_ne!(read(db, Consistency::Any).await, own.primary.postgres.port());
    }
    // The sampler goes on trying; requests do not.
    assert!(ways[0].accepted() < connected + 50, "requests go on connecting");
    let from_replica = async || {
        let read = db.read(&Consistency::AtLeast(lsn)).await;
        read.is_ok()
    };
    until(from_replica).await;
    assert!(!db.states()[0].up);
    ways[0].clear().unwrap();
    until(async || db.read(&Consistency::Latest).await.is_ok()).await;
    until(async || metric(&fleet, PRIMARY_LEFT_ALONE) == 0.0).await;
    db.begin().await.unwrap().commit().await.unwrap();
}

/// How far a replica is behind was decided when the primary was last seen: it may be all there is.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_primary_nobody_falls_further_behind_it() {
    let mut own = own_postgres(1);
    let ways = ways(&own);
    let fleet = fleet_through(&own, &ways).await;
    own.replicas[0].postgres.set_apply_delay(Duration::from_secs(600)).unwrap();
    write(&fleet).await;
    let behind = "db_replica_lag_bytes{replica=\"replica-1\"}";
    until(async || metric(&fleet, behind) > 0.0).await;
    ways[0].set(Fault::Drop).unwrap();
    // Each attempt of the sampler takes a second: together longer than a replica may lag.
    let connected = ways[0].accepted();
    until(async || ways[0].accepted() >= connected + 6).await;
    let source = read(&fleet.app().db, Consistency::Any).await;
    assert_eq!(source, own.replicas[0].postgres.port());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_without_the_primary_reads_from_replicas() {
    let own = own_postgres(1);
    let way = FaultProxy::before(own.primary.pooler.port()).unwrap();
    way.set(Fault::Down).unwrap();
    let mut settings = crate::support::environment("shoal");
    let replica = own.topology().app_replica_urls("shoal").join(",");
    let primary = own.topology().app_url("shoal");
    let port = own.primary.pooler.port().to_string();
    settings.insert("DATABASE_URL".into(), primary.replace(&port, &way.port().to_string()));
    settings.insert("DATABASE_REPLICA_URLS".into(), replica);
    let config = shoal::config::Config::read(&|name| settings.get(name).cloned()).unwrap();
    let tasks = shoal::platform::shutdown::Tasks::default();
    let app = shoal::state::App::new(&config, tasks.clone()).await.unwrap();
    until(async || app.db.states()[1].up).await;
    assert_eq!(read(&app.db, Consistency::Any).await, own.replicas[0].postgres.port());
    way.clear().unwrap();
    until(async || app.db.states().iter().all(|state| state.up)).await;
    tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_flee_to_the_primary_leave_room_for_writers() {
    let own = own_postgres(2);
    let ways = ways(&own);
    let ports: Vec<u16> = ways.iter().map(FaultProxy::port).collect();
    let fleet = Fleet::of(1)
        .postgres(&own)
        .await
        .replica_poolers(&ports[1..])
        .set("SHOAL_DB_POOL_SIZE", "4")
        .set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "2000")
        .start()
        .await;
    in_rotation(&fleet, &[1, 2]).await;
    let db = &fleet.app().db;
    for way in &ways[1..] {
        way.set(Fault::Down).unwrap();
    }
    in_rotation(&fleet, &[]).await;
    let reads = futures::future::join_all((0..8).map(|_| db.read(&Consistency::Any))).await;
    let busy = reads.iter().filter(|read| matches!(read, Err(Error::Busy("primary")))).count();
    assert_eq!((reads.iter().filter(|read| read.is_ok()).count(), busy), (2, 6));
    // All that are served are held until here, and more would like to be.
    let mut tx = db.begin().await.unwrap();
    sqlx::query("update users set name = ''").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    drop(reads);
    assert_eq!(read(db, Consistency::Any).await, own.primary.postgres.port());
}
