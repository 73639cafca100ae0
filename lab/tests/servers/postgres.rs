//! Replication and pooling, with the shipped configuration.

use std::process::Command;
use std::time::{Duration, Instant};

use lab::install;
use lab::pgbouncer::PgBouncer;
use lab::ports::Port;
use lab::postgres::{Postgres, create_roles};
use lab::redis::Redis;
use lab::site::Site;

use crate::scratch::Scratch;

/// Runs SQL as the API's role, whose password is in PgBouncer's list of users.
fn as_app(site: &Site, port: u16, sql: &str) -> Result<String, String> {
    let users = std::fs::read_to_string(site.etc("pgbouncer.users")).expect("PgBouncer has users");
    let password = users.split('"').nth(3).expect("the first is the API's").to_owned();
    let psql = install::find().expect("the servers are installed").postgres_dir.join("psql");
    let mut command = Command::new(psql);
    command.args(["-XAtq", "-h", "127.0.0.1", "-U", "shoal_app", "-d", "shoal", "-c", sql]);
    let output = command
        .arg("-p")
        .arg(port.to_string())
        .env("PGPASSWORD", password)
        .output()
        .expect("psql runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Asks until the answer is as expected; replication takes a moment.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} did not come true");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_replica_follows_its_primary_and_again_after_both_were_restarted() {
    let site = Scratch::new("replication");
    let mut primary =
        Postgres::start_primary(&site, "primary", Port::free().expect("a port is free"))
            .expect("it starts");
    create_roles(&site, primary.port(), "shoal").expect("the roles are made");
    create_roles(&site, primary.port(), "shoal").expect("making them again does no harm");
    let port = || Port::free().expect("a port is free");
    let mut replica =
        Postgres::start_replica(&site, "replica", port(), primary.port()).expect("it starts");
    let _pooler = PgBouncer::start(&site, "pgbouncer", port(), primary.port()).expect("it starts");

    let arrives = |database: &str| {
        create_roles(&site, primary.port(), database).expect("a database is made");
        let found = format!("select count(*) from pg_database where datname = '{database}'");
        eventually(database, || {
            as_app(&site, replica.port(), &found).is_ok_and(|count| count == "1")
        });
    };
    arrives("first");

    primary.process().restart().expect("it starts again");
    replica.process().restart().expect("it starts again");
    for port in [primary.port(), replica.port()] {
        eventually("a restarted Postgres answers", || as_app(&site, port, "select 1").is_ok());
    }
    create_roles(&site, primary.port(), "second").expect("a database is made");
    let found = "select count(*) from pg_database where datname = 'second'";
    eventually("second", || as_app(&site, replica.port(), found).is_ok_and(|count| count == "1"));
}

#[test]
fn the_api_s_role_has_its_limits_through_the_pooler_and_may_not_change_the_schema() {
    let site = Scratch::new("pooling");
    let port = || Port::free().expect("a port is free");
    let primary = Postgres::start_primary(&site, "primary", port()).expect("it starts");
    create_roles(&site, primary.port(), "shoal").expect("the roles are made");
    let pooler = PgBouncer::start(&site, "pgbouncer", port(), primary.port()).expect("it starts");
    for (setting, value) in [
        ("statement_timeout", "3s"),
        ("lock_timeout", "1s"),
        ("idle_in_transaction_session_timeout", "5s"),
    ] {
        assert_eq!(as_app(&site, pooler.port(), &format!("show {setting}")).as_deref(), Ok(value));
    }
    let refused =
        as_app(&site, pooler.port(), "create table mine (id int)").expect_err("it has no right to");
    assert!(refused.contains("permission denied"), "{refused}");
}

#[test]
fn a_half_made_data_directory_is_made_anew() {
    let site = Scratch::new("half-made");
    let port = || Port::free().expect("a port is free");
    drop(Postgres::start_primary(&site, "primary", port()).expect("it starts"));
    let data = site.data("primary");
    std::fs::remove_file(data.with_extension("complete")).expect("the marker can be removed");
    std::fs::remove_file(data.join("PG_VERSION")).expect("a file can be removed");
    let _primary =
        Postgres::start_primary(&site, "primary", port()).expect("it starts in spite of that");
    assert!(data.join("PG_VERSION").exists());
}

#[test]
fn redis_comes_back_empty_on_the_same_port() {
    use std::io::{Read, Write};

    let site = Scratch::new("redis");
    let mut redis =
        Redis::start(&site, "redis", Port::free().expect("a port is free")).expect("it starts");
    let port = redis.port();
    let ask = |command: &str| {
        let mut connection = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).expect("it reads");
        let mut reply = String::new();
        connection.read_to_string(&mut reply).expect("it answers");
        reply
    };
    assert!(ask("SET key value").starts_with("+OK"));
    assert!(ask("GET key").contains("value"));
    redis.process().restart().expect("it starts again");
    redis.wait_until_ready().expect("it gets ready");
    assert!(ask("GET key").starts_with("$-1"));
}
