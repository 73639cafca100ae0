//! `shoal audit` of servers that are not set up as they should be: Postgres, its replicas,
//! PgBouncer and S3.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

use crate::support::{Audited, Forger, replace, topology, until};

#[tokio::test]
async fn each_fault_of_the_primary_is_told() {
    let audited = Audited::start(1).await;
    let primary = &audited.nodes()[0];
    for (fault, heal, told) in [
        ("fsync = off", "fsync = on", "postgres.durability"),
        ("max_slot_wal_keep_size = '-1'", "max_slot_wal_keep_size = '1GB'", "postgres.slots"),
    ] {
        audited.alter_system(primary, fault).await;
        audited.audit_deployed(&[]).await.expect_failed(told);
        audited.alter_system(primary, heal).await;
    }
    for (fault, heal) in [
        (
            "grant create on schema public to shoal_app",
            "revoke create on schema public from shoal_app",
        ),
        (
            "grant create on database shoal to shoal_app",
            "revoke create on database shoal from shoal_app",
        ),
        ("alter role shoal_app createrole", "alter role shoal_app nocreaterole"),
        ("alter role shoal_app superuser", "alter role shoal_app nosuperuser"),
        ("grant shoal_migrator to shoal_app", "revoke shoal_migrator from shoal_app"),
        ("create table t (); alter table t owner to shoal_app", "drop table t"),
    ] {
        let fault: Vec<&str> = fault.split("; ").collect();
        audited.run(primary, &fault).await;
        audited.audit_deployed(&[]).await.expect_failed("postgres.role");
        audited.run(primary, &[heal]).await;
    }
    assert_eq!(audited.audit_deployed(&[]).await.failed(), [""; 0]);
}

#[tokio::test]
async fn each_time_out_of_the_role_that_does_not_fit_is_told() {
    let audited = Audited::start(0).await;
    // Between what a statement may take and a request; the lease to load an entry is longer.
    let short = [("SHOAL_REQUEST_TIMEOUT_MS", "3400"), ("SHOAL_S3_TIMEOUT_MS", "2000")];
    for (fault, heal, changes, told) in [
        (
            "statement_timeout = '3500ms'",
            "statement_timeout = '3s'",
            &short[..],
            "timeouts.statement",
        ),
        ("statement_timeout = '4500ms'", "statement_timeout = '3s'", &[], "timeouts.load_lease"),
        ("lock_timeout = '3s'", "lock_timeout = '1s'", &[], "timeouts.lock"),
        (
            "idle_in_transaction_session_timeout = 0",
            "idle_in_transaction_session_timeout = '5s'",
            &[],
            "timeouts.idle_in_transaction",
        ),
    ] {
        audited.alter_role(&format!("set {fault}")).await;
        audited.audit_deployed(changes).await.expect_failed(told);
        audited.alter_role(&format!("set {heal}")).await;
    }
    assert_eq!(audited.audit_deployed(&[]).await.failed(), [""; 0]);
}

#[tokio::test]
async fn a_schema_that_is_not_whole_is_told() {
    let audited = Audited::start(0).await;
    let primary = &audited.nodes()[0];
    let newest = "version = (select max(version) from _sqlx_migrations)";
    for (fault, heal) in
        [("success = false", "success = true"), ("version = version + 1", "version = version - 1")]
    {
        audited
            .run(primary, &[&format!("update _sqlx_migrations set {fault} where {newest}")])
            .await;
        audited.audit_deployed(&[]).await.expect_failed("schema.applied");
        audited
            .run(primary, &[&format!("update _sqlx_migrations set {heal} where {newest}")])
            .await;
    }
    let stray = "insert into events (id, type, subject_id, sequence, data) values
        ('0fffffff-0000-7000-8000-000000000000', 'a.b', gen_random_uuid(), 1, '{}')";
    audited.run(primary, &[stray]).await;
    audited.audit_deployed(&[]).await.expect_failed("partitions.default");
    audited.run(primary, &["delete from events_default"]).await;
    // The last one need not be there in the first days of a month; that of the next month always.
    let next = "do $$ begin execute 'drop table order_items_y' || to_char(
        date_trunc('month', now() at time zone 'utc') + interval '1 month', 'YYYY\"m\"MM');
        end $$";
    audited.run(primary, &[next]).await;
    let report = audited.audit_deployed(&[]).await;
    report.expect_failed("partitions.ahead");
    let failed = report.checks.iter().find(|check| check.outcome == "failed").unwrap();
    assert_eq!(failed.of, "order_items");
    // A clock that is an hour ahead, in a schema that the role looks into first.
    audited
        .run(
            primary,
            &[
                "select create_month_partitions('order_items', 3)",
                "create schema forged",
                "grant usage on schema forged to shoal_app",
                "create function forged.clock_timestamp() returns timestamptz language sql
             return pg_catalog.clock_timestamp() + interval '1 hour'",
            ],
        )
        .await;
    audited.alter_role("set search_path = forged, pg_catalog, public").await;
    audited.audit_deployed(&[]).await.expect_failed("clock.skew");
}

#[tokio::test]
async fn each_fault_of_a_replica_is_told() {
    let mut audited = Audited::start(1).await;
    let replica = audited.nodes()[1].clone();
    let lag = [("SHOAL_DB_MAX_REPLICA_LAG_MS", "3000")];

    audited.alter_system(&replica, "max_standby_streaming_delay = -1").await;
    audited.audit_deployed(&[]).await.expect_failed("replica.conflicts");
    audited.alter_system(&replica, "max_standby_streaming_delay = '2s'").await;

    // The primary, or a replica of others, where a replica should be.
    let url = audited.setting("DATABASE_URL");
    audited
        .audit_deployed(&[("DATABASE_REPLICA_URLS", &url)])
        .await
        .expect_failed("replica.standby");
    let others = topology().app_replica_urls("postgres").remove(0);
    let report = audited.audit_deployed(&[("DATABASE_REPLICA_URLS", &others)]).await;
    assert!(report.failed().contains(&"replica.cluster"), "{report:#?}");
    let url = audited.setting("DATABASE_REPLICA_URLS");
    let swapped = audited.audit_deployed(&[("DATABASE_URL", &url)]).await;
    swapped.expect_failed("postgres.primary");

    let postgres = &mut audited.postgres.replicas[0].postgres;
    postgres.pause_replay().unwrap();
    let report = audited.audit_deployed(&lag).await;
    report.expect_failed("replica.lag");
    let failed = report.checks.iter().find(|check| check.outcome == "failed").unwrap();
    assert_eq!(failed.seen, "its replay is paused");
    audited.postgres.replicas[0].postgres.resume_replay().unwrap();
    audited.postgres.replicas[0].postgres.set_apply_delay(Duration::from_secs(3_600)).unwrap();
    audited.run(&audited.nodes()[0], &["create table newer ()"]).await;
    let report = audited.audit_deployed(&lag).await;
    report.expect_failed("replica.lag");
    audited.postgres.replicas[0].postgres.set_apply_delay(Duration::ZERO).unwrap();
    until(async || audited.audit_deployed(&[]).await.failed().is_empty()).await;

    audited.alter_system(&replica, "primary_conninfo = ''").await;
    let is_told = async || {
        let report = audited.audit_deployed(&lag).await;
        // What the primary writes from now on, it does not get either.
        let others: Vec<&str> =
            report.failed().into_iter().filter(|check| *check != "replica.lag").collect();
        others == ["replica.streaming"]
    };
    until(is_told).await;
    audited.postgres.replicas[0].postgres.promote().unwrap();
    audited.audit_deployed(&[]).await.expect_failed("replica.standby");
}

#[tokio::test]
async fn each_fault_of_pgbouncer_is_told() {
    let audited = Audited::start(0).await;
    let primary = &audited.nodes()[0];
    for (fault, heal, told) in [
        ("pool_mode = 'session'", "pool_mode = 'transaction'", "pgbouncer.pool_mode"),
        (
            "max_prepared_statements = 0",
            "max_prepared_statements = 200",
            "pgbouncer.prepared_statements",
        ),
        ("max_client_conn = 300", "max_client_conn = 4000", "connections.clients"),
        ("default_pool_size = 600", "default_pool_size = 20", "connections.servers"),
        ("query_wait_timeout = 120", "query_wait_timeout = 3", "timeouts.query_wait"),
    ] {
        audited.order(primary, &format!("set {fault}")).await;
        audited.audit_deployed(&[]).await.expect_failed(told);
        audited.order(primary, &format!("set {heal}")).await;
    }
    assert_eq!(audited.audit_deployed(&[]).await.failed(), [""; 0]);

    let old = |bytes: &mut Vec<u8>| {
        for digit in b'1'..=b'9' {
            let version = [b"PgBouncer 1.2", &[digit][..]].concat();
            replace(bytes, &version, b"PgBouncer 1.18");
        }
    };
    let forger = Forger::start(primary.pooler_port, old).await;
    let url = audited.setting("DATABASE_URL");
    let forged = url.replace(&primary.pooler_port.to_string(), &forger.port.to_string());
    audited.audit_deployed(&[("DATABASE_URL", &forged)]).await.expect_failed("pgbouncer.version");
    let direct = url.replace(&primary.pooler_port.to_string(), &primary.port.to_string());
    audited.audit_deployed(&[("DATABASE_URL", &direct)]).await.expect_failed("pgbouncer.console");
    let forge = |bytes: &mut Vec<u8>| {
        for digit in b'5'..=b'9' {
            let version = [b"\x00\x00\x00\x061", &[digit][..], b"00"].concat();
            replace(bytes, &version, b"\x00\x00\x00\x061400");
        }
    };
    let forger = Forger::start(primary.pooler_port, forge).await;
    let forged = url.replace(&primary.pooler_port.to_string(), &forger.port.to_string());
    audited.audit_deployed(&[("DATABASE_URL", &forged)]).await.expect_failed("postgres.version");

    // Whoever may not look at the console is told how to be let in.
    audited.order(primary, "set stats_users = ''").await;
    let report = audited.audit_deployed(&[]).await;
    assert_eq!(report.failed(), [""; 0], "{report:#?}");
    let console = report.checks.iter().find(|check| check.check == "pgbouncer.console").unwrap();
    assert_eq!(console.outcome, "skipped", "{console:?}");
    assert!(console.mend.contains("stats_users"), "{console:?}");
}

/// How an S3 server answers, that has one object at a time.
#[derive(Clone, Copy)]
struct Answers {
    to_writers: StatusCode,
    to_strangers_of_objects: StatusCode,
    to_strangers_of_lists: StatusCode,
}

const SOUND: Answers = Answers {
    to_writers: StatusCode::OK,
    to_strangers_of_objects: StatusCode::FORBIDDEN,
    to_strangers_of_lists: StatusCode::FORBIDDEN,
};

async fn answer(
    State(answers): State<Answers>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    _body: Bytes,
) -> Response {
    const DELETED: &str =
        r#"<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></DeleteResult>"#;
    let is_stranger = !headers.contains_key(header::AUTHORIZATION);
    let is_list = uri.query().is_some_and(|query| query.contains("list-type"));
    match (method, is_stranger) {
        (_, true) if is_list => answers.to_strangers_of_lists.into_response(),
        (_, true) => answers.to_strangers_of_objects.into_response(),
        (Method::PUT, _) => answers.to_writers.into_response(),
        (Method::GET, _) => "shoal audit".into_response(),
        (Method::POST, _) => DELETED.into_response(),
        _ => StatusCode::OK.into_response(),
    }
}

async fn s3(answers: Answers) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(answers);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

#[tokio::test]
async fn a_bucket_that_is_public_or_cannot_be_written_is_told() {
    let audited = Audited::start(0).await;
    let audit =
        async |answers| audited.audit_deployed(&[("S3_ENDPOINT", &*s3(answers).await)]).await;
    assert_eq!(audit(SOUND).await.failed(), [""; 0]);
    for answers in [
        Answers { to_strangers_of_objects: StatusCode::OK, ..SOUND },
        Answers { to_strangers_of_objects: StatusCode::NOT_FOUND, ..SOUND },
        Answers { to_strangers_of_lists: StatusCode::OK, ..SOUND },
    ] {
        audit(answers).await.expect_failed("s3.private");
    }
    let read_only = Answers { to_writers: StatusCode::FORBIDDEN, ..SOUND };
    audit(read_only).await.expect_failed("s3.writable");
}
