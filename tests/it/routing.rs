//! Which server a read comes from, with replicas that lag: one's own writes are seen whatever they
//! do, and nobody reads from one that is too far behind.

use std::time::Duration;

use lab::postgres::OwnPostgres;
use shoal::platform::{
    db::{Conn, Consistency, Db, Error, Lsn},
    redis::cmd,
};
use uuid::Uuid;

use crate::support::{Fleet, metric, own_postgres, until};

/// The port of the Postgres that a read comes from.
pub async fn source(conn: &mut Conn) -> u16 {
    let port: i32 = sqlx::query_scalar("select inet_server_port()").fetch_one(conn).await.unwrap();
    port.try_into().unwrap()
}

/// Where a read of this kind goes now.
pub async fn read(db: &Db, consistency: Consistency) -> u16 {
    source(&mut db.read(&consistency).await.unwrap()).await
}

/// Waits until these replicas, by number, are in the rotation and all others are not.
pub async fn in_rotation(fleet: &Fleet, numbers: &[usize]) {
    let expected: Vec<String> = numbers.iter().map(|number| format!("replica-{number}")).collect();
    until(async || {
        let states = fleet.app().db.states();
        let replicas = states.iter().filter(|state| state.name != "primary" && state.up);
        replicas.map(|state| state.name).eq(expected.iter().map(String::as_str))
    })
    .await;
}

/// Writes behind the service's back, and tells where in the log that is.
pub async fn write(fleet: &Fleet) -> (i64, Lsn) {
    let mut connection = fleet.database.connect().await;
    let insert = "insert into users (id, email, name, password_hash)
        values (gen_random_uuid(), gen_random_uuid()::text, '', '')";
    sqlx::query(insert).execute(&mut connection).await.unwrap();
    let count = fleet.database.number("select count(*) from users").await;
    let position = "select pg_current_wal_flush_lsn()::text";
    let lsn: String = sqlx::query_scalar(position).fetch_one(&mut connection).await.unwrap();
    (count, lsn.parse().unwrap())
}

/// How many users a read sees that has to see everything up to `lsn`.
async fn users_at(db: &Db, lsn: Lsn) -> i64 {
    let mut conn = db.read(&Consistency::AtLeast(lsn)).await.unwrap();
    sqlx::query_scalar("select count(*) from users").fetch_one(&mut conn).await.unwrap()
}

/// Writes, and looks at once, a few times.
async fn sees_its_own_writes(fleet: &Fleet) {
    for _ in 0..5 {
        let (count, lsn) = write(fleet).await;
        for _ in 0..4 {
            assert_eq!(users_at(&fleet.app().db, lsn).await, count);
        }
    }
}

async fn fleet(own: &OwnPostgres) -> Fleet {
    let fleet = Fleet::of(1).postgres(own).await.start().await;
    in_rotation(&fleet, &[1, 2]).await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_seen_with_replay_paused_everywhere() {
    let mut own = own_postgres(2);
    let fleet = fleet(&own).await;
    sees_its_own_writes(&fleet).await;
    for replica in &mut own.replicas {
        replica.postgres.pause_replay().unwrap();
    }
    sees_its_own_writes(&fleet).await;
    in_rotation(&fleet, &[]).await;
    sees_its_own_writes(&fleet).await;
    let primary = own.primary.postgres.port();
    assert_eq!(read(&fleet.app().db, Consistency::Any).await, primary);
    for replica in &mut own.replicas {
        replica.postgres.resume_replay().unwrap();
    }
    in_rotation(&fleet, &[1, 2]).await;
    let (count, lsn) = write(&fleet).await;
    let from_replica = async || read(&fleet.app().db, Consistency::AtLeast(lsn)).await != primary;
    until(from_replica).await;
    assert_eq!(users_at(&fleet.app().db, lsn).await, count);
}

/// Nothing arrives and nothing is replayed, so each replica is as far as it knows of.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_without_traffic_does_not_pass_for_being_caught_up() {
    let mut own = own_postgres(2);
    // So high a limit that it is not the lag that takes them out.
    let limit = ("SHOAL_DB_MAX_REPLICA_LAG_MS", "600000");
    let fleet = Fleet::of(1).postgres(&own).await.set(limit.0, limit.1).start().await;
    in_rotation(&fleet, &[1, 2]).await;
    fleet.database.replicated().await;
    for replica in &mut own.replicas {
        replica.postgres.pause_replay().unwrap();
    }
    let (count, lsn) = write(&fleet).await;
    assert_eq!(users_at(&fleet.app().db, lsn).await, count);
    in_rotation(&fleet, &[]).await;
    assert_eq!(users_at(&fleet.app().db, lsn).await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_seen_with_ten_seconds_of_lag_everywhere() {
    let mut own = own_postgres(2);
    let fleet = fleet(&own).await;
    for replica in &mut own.replicas {
        replica.postgres.set_apply_delay(Duration::from_secs(10)).unwrap();
    }
    sees_its_own_writes(&fleet).await;
    // Within the limit of five seconds, whoever asks for no more is still served.
    assert_ne!(read(&fleet.app().db, Consistency::Any).await, own.primary.postgres.port());
    in_rotation(&fleet, &[]).await;
    sees_its_own_writes(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_the_one_that_is_far_enough_is_used() {
    let mut own = own_postgres(2);
    let fleet = fleet(&own).await;
    own.replicas[0].postgres.set_apply_delay(Duration::from_secs(60)).unwrap();
    let (count, lsn) = write(&fleet).await;
    let db = &fleet.app().db;
    let second = own.replicas[1].postgres.port();
    until(async || read(db, Consistency::AtLeast(lsn)).await == second).await;
    for _ in 0..20 {
        assert_ne!(read(db, Consistency::AtLeast(lsn)).await, own.replicas[0].postgres.port());
        assert_eq!(users_at(db, lsn).await, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_over_the_lag_limit_leaves_and_comes_back() {
    let mut own = own_postgres(2);
    let limit = ("SHOAL_DB_MAX_REPLICA_LAG_MS", "1000");
    let fleet = Fleet::of(1).postgres(&own).await.set(limit.0, limit.1).start().await;
    in_rotation(&fleet, &[1, 2]).await;
    own.replicas[0].postgres.set_apply_delay(Duration::from_secs(600)).unwrap();
    write(&fleet).await;
    in_rotation(&fleet, &[2]).await;
    assert!(metric(&fleet, "db_replica_lag_seconds{replica=\"replica-1\"}") > 1.0);
    assert!(metric(&fleet, "db_replica_lag_bytes{replica=\"replica-1\"}") > 0.0);
    let db = &fleet.app().db;
    for _ in 0..10 {
        assert_eq!(read(db, Consistency::Any).await, own.replicas[1].postgres.port());
    }
    own.replicas[0].postgres.set_apply_delay(Duration::ZERO).unwrap();
    in_rotation(&fleet, &[1, 2]).await;
    let first = own.replicas[0].postgres.port();
    until(async || read(db, Consistency::Any).await == first).await;
}

/// A process that starts beside a replica that lags cannot know by how much.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lagged_before_the_process_began_is_not_trusted() {
    let mut own = own_postgres(2);
    own.replicas[0].postgres.set_apply_delay(Duration::from_secs(600)).unwrap();
    let other = Fleet::of(1).postgres(&own).await.start().await;
    write(&other).await;
    // So high a limit that the lag from here on does not matter.
    let limit = ("SHOAL_DB_MAX_REPLICA_LAG_MS", "600000");
    let fleet = Fleet::of(1).postgres(&own).await.set(limit.0, limit.1).start().await;
    let behind = "db_replica_lag_bytes{replica=\"replica-1\"}";
    until(async || metric(&fleet, behind) > 0.0).await;
    in_rotation(&fleet, &[2]).await;
    for _ in 0..100 {
        let source = read(&fleet.app().db, Consistency::Any).await;
        assert_eq!(source, own.replicas[1].postgres.port());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_a_moment_for_a_replica_that_is_almost_there() {
    let own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1]).await;
    let waited = "db_reads_total{reason=\"waited\",target=\"replica\"}";
    until(async || {
        sees_its_own_writes(&fleet).await;
        metric(&fleet, waited) > 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_is_read_from_the_primary() {
    let own = own_postgres(2);
    let fleet = fleet(&own).await;
    for _ in 0..4 {
        let source = read(&fleet.app().db, Consistency::Latest).await;
        assert_eq!(source, own.primary.postgres.port());
    }
    let latest = "db_reads_total{reason=\"latest\",target=\"primary\"}";
    assert!(metric(&fleet, latest) >= 4.0);
}

/// The slower of two replicas tells of the earlier commit last.
#[tokio::test]
async fn the_position_of_a_user_never_goes_back() {
    let fleet = Fleet::of(2).start().await;
    let user = Uuid::now_v7();
    for (replica, told, known) in [(0, 9, 9), (1, 5, 9), (1, 16, 16), (0, 9, 16)] {
        let app = &fleet.replicas[replica].app;
        app.positions.advance(user, Lsn(told)).await;
        let key = app.positions.key(user);
        let stored: String = app.redis.run(cmd("GET").arg(&key)).await.unwrap();
        assert_eq!(Lsn::from_sortable(&stored), Some(Lsn(known)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_where_there_is_least_to_do() {
    let own = own_postgres(2);
    let fleet = fleet(&own).await;
    let db = &fleet.app().db;
    let mut first = db.read(&Consistency::Any).await.unwrap();
    let busy = source(&mut first).await;
    for _ in 0..10 {
        assert_ne!(read(db, Consistency::Any).await, busy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_replica_is_not_a_lost_one() {
    let own = own_postgres(1);
    let fleet = Fleet::of(1)
        .postgres(&own)
        .await
        .set("SHOAL_DB_POOL_SIZE", "1")
        .set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "300")
        // Nothing is to be broken here, and the machine may be busy.
        .set("SHOAL_DB_LOOK_TIMEOUT_MS", "10000")
        .set("SHOAL_DB_MAX_REPLICA_LAG_MS", "60000")
        .start()
        .await;
    in_rotation(&fleet, &[1]).await;
    let db = &fleet.app().db;
    let held = db.read(&Consistency::Any).await.unwrap();
    for _ in 0..4 {
        let refused = db.read(&Consistency::Any).await;
        assert!(matches!(refused, Err(Error::Busy("replica-1"))), "{refused:?}");
        assert!(db.states().iter().all(|state| state.up));
    }
    drop(held);
    assert_eq!(read(db, Consistency::Any).await, own.replicas[0].postgres.port());
}

/// Statements are counted by where they ran and what they are.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_timed() {
    let own = own_postgres(1);
    let fleet = Fleet::of(1).postgres(&own).await.start().await;
    in_rotation(&fleet, &[1]).await;
    let db = &fleet.app().db;
    read(db, Consistency::Any).await;
    db.begin().await.unwrap().commit().await.unwrap();
    for (pool, query) in [("replica-1", "select"), ("primary", "begin"), ("primary", "commit")] {
        let series =
            format!("db_query_duration_seconds_count{{pool=\"{pool}\",query=\"{query}\"}}");
        assert!(metric(&fleet, &series) > 0.0, "{series}");
    }
}
