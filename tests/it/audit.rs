//! `shoal audit`: what is as it should be passes, and each fault is told by its own line.

use std::collections::BTreeSet;

use deadpool_redis::redis::Value;
use lab::ports::Port;
use shoal::platform::tokens::generate_key;

use crate::{
    cli::shoal,
    support::{Audited, DEPLOYMENT, Fleet, Forger, ask_redis, replace, topology, unique},
};

fn text_of_a_scaler(most: u32) -> String {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/k8s/base/api-scaling.yaml");
    let text = std::fs::read_to_string(shipped).unwrap();
    text.replace("maxReplicas: 20", &format!("maxReplicas: {most}"))
}

/// A port that nobody listens on.
fn closed() -> u16 {
    Port::free().unwrap().number()
}

#[tokio::test]
async fn everything_passes_where_all_is_as_it_should_be() {
    let (audited, fleet) = (Audited::start(2).await, Fleet::one().await);
    let url = format!("http://{}", fleet.replicas[0].address);
    let options = [&DEPLOYMENT[..], &["--url", &url]].concat();
    let report = audited.audit(&[], &options).await;
    assert_eq!((report.failed(), report.code), (vec![], 0), "{report:#?}");
    assert_eq!(report.skipped(), [""; 0]);
    let told: BTreeSet<&str> = report.checks.iter().map(|check| check.of.as_str()).collect();
    for of in ["primary", "replica-1", "replica-2", "orders", "events", "api", "worker"] {
        assert!(told.contains(of), "{of}: {told:?}");
    }
    assert_eq!(report.totals["passed"] + report.totals["noted"], report.checks.len());

    let mut arguments = vec!["audit"];
    arguments.extend(&options);
    let text = shoal(&audited.settings, &arguments, "").await;
    assert_eq!(text.code, 0, "{}{}", text.stdout, text.stderr);
    let totals = format!("{} passed, 0 failed, 0 skipped", report.totals["passed"]);
    assert!(text.stdout.lines().last().unwrap().starts_with(&totals), "{}", text.stdout);
    let key = &audited.settings["JWT_PRIVATE_KEYS"];
    let secret = &topology().app.password;
    assert!(!text.stdout.contains(secret) && !text.stdout.contains(key.lines().nth(1).unwrap()));

    // A replica that drains does not say that it is ready.
    fleet.replicas[0].app.tasks.drain();
    audited.audit(&[], &options).await.expect_failed("probes.answers");
}

#[tokio::test]
async fn without_being_told_of_the_deployment_it_skips_what_needs_that() {
    let audited = Audited::start(1).await;
    let report = audited.audit(&[("TRUSTED_PROXIES", "")], &[]).await;
    assert_eq!((report.failed(), report.code), (vec![], 0), "{report:#?}");
    let expected = [
        "connections.clients",
        "probes.answers",
        "proxy.trusted",
        "timeouts.grace",
        "timeouts.keepalive",
        "timeouts.proxy",
        "timeouts.upload",
    ];
    assert_eq!(report.skipped(), expected);
    let skipped = report.checks.iter().filter(|check| check.outcome == "skipped");
    assert!(skipped.clone().all(|check| !check.mend.is_empty()), "{report:#?}");
}

#[tokio::test]
async fn each_setting_that_does_not_fit_is_told() {
    let audited = Audited::start(1).await;
    let (key, other) = (generate_key().unwrap(), generate_key().unwrap());
    let published = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    let of_rsa =
        format!("{key}-----BEGIN RSA PRIVATE KEY-----\nAA==\n-----END RSA PRIVATE KEY-----\n");
    for (name, value, told) in [
        ("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "5000", "timeouts.acquire"),
        ("SHOAL_REDIS_TIMEOUT_MS", "5000", "timeouts.redis"),
        ("SHOAL_S3_TIMEOUT_MS", "4600", "timeouts.s3"),
        ("SHOAL_JOB_LEASE_MS", "5000", "timeouts.lease"),
        ("SHOAL_BODY_TIMEOUT_MS", "40000", "timeouts.upload"),
        ("SHOAL_DRAIN_DELAY_MS", "3000", "timeouts.keepalive"),
        ("SHOAL_DRAIN_CAP_MS", "31000", "timeouts.grace"),
        ("SHOAL_CACHE_LOADS", "10", "connections.cache_loads"),
        ("TRUSTED_PROXIES", "0.0.0.0/0", "proxy.trusted"),
        ("TRUSTED_PROXIES", "", "proxy.trusted"),
        ("SHOAL_ACCESS_TOKEN_SECS", "86400", "keys.rotation"),
        ("JWT_PRIVATE_KEYS", &format!("{key}{other}{key}"), "keys.unique"),
        ("JWT_PRIVATE_KEYS", published, "keys.own"),
        ("JWT_PRIVATE_KEYS", &of_rsa, "keys.valid"),
        ("JWT_PRIVATE_KEYS", &key.replace("MC4C", "AAAA"), "keys.valid"),
    ] {
        audited.audit_deployed(&[(name, value)]).await.expect_failed(told);
    }
    let two = [("JWT_PRIVATE_KEYS", &*format!("{other}{key}"))];
    assert_eq!(audited.audit_deployed(&two).await.failed(), [""; 0]);
    // The time of a write is also what a buried entry is kept for, and a proxy waits for.
    let patient = [("SHOAL_REQUEST_TIMEOUT_MS", "26000")];
    let told = audited.audit_deployed(&patient).await;
    assert_eq!(told.failed(), ["timeouts.burial", "timeouts.proxy", "timeouts.upload"]);
    let mistaken = shoal(&[("PORT".to_owned(), "x".to_owned())].into(), &["audit"], "").await;
    assert_eq!(mistaken.code, 2, "{}", mistaken.stderr);
}

#[tokio::test]
async fn each_part_of_the_deployment_that_does_not_fit_is_told() {
    let audited = Audited::start(1).await;
    for (option, value, told) in [
        ("--max-replicas", "400", "connections.clients"),
        ("--poolers", "30", "connections.servers"),
        ("--proxy-timeout", "5", "timeouts.proxy"),
        ("--grace", "39", "timeouts.grace"),
        ("--pre-stop", "11", "timeouts.grace"),
        ("--url", &format!("http://127.0.0.1:{}", closed()), "probes.answers"),
    ] {
        let mut options: Vec<&str> = DEPLOYMENT.to_vec();
        match options.iter().position(|known| *known == option) {
            Some(at) => options[at + 1] = value,
            None => options.extend([option, value]),
        }
        audited.audit(&[], &options).await.expect_failed(told);
    }
    // Manifests spread replicas, and the servers of this test are on one machine.
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/k8s/base/api.yaml");
    let options = [&DEPLOYMENT[..], &["--manifest", shipped]].concat();
    audited.audit(&[], &options).await.expect_failed("drivers.shared");
    let text = std::fs::read_to_string(shipped).unwrap();
    let file = topology().scratch_dir("").join(unique("manifest"));
    let migrates = "      initContainers: [{ args: [migrate] }]\n      containers:";
    for (from, to, told) in [
        ("path: /health/live, port", "path: /health/ready, port", "probes.paths"),
        ("      containers:", migrates, "schema.separate"),
    ] {
        let manifest = text.replace(from, to);
        assert_ne!(manifest, text);
        std::fs::write(&file, manifest).unwrap();
        let options = [&DEPLOYMENT[..], &["--manifest", file.to_str().unwrap()]].concat();
        let report = audited.audit(&[], &options).await;
        assert_eq!(report.failed(), ["drivers.shared", told], "{report:#?}");
    }
    // An autoscaler alone tells how many there may be.
    let scaler = text_of_a_scaler(400);
    std::fs::write(&file, scaler).unwrap();
    let options = [&DEPLOYMENT[2..], &["--hpa", file.to_str().unwrap()]].concat();
    audited.audit(&[], &options).await.expect_failed("connections.clients");
    let unreadable = shoal(&audited.settings, &["audit", "--manifest", "/nowhere"], "").await;
    assert_eq!(unreadable.code, 1);
    assert!(unreadable.stderr.contains("cannot read /nowhere"), "{}", unreadable.stderr);
}

#[tokio::test]
async fn a_server_that_does_not_answer_fails_its_own_check_and_no_other() {
    let mut audited = Audited::start(1).await;
    let port = closed();
    let postgres = |user: &str| format!("postgres://{user}@127.0.0.1:{port}/shoal");
    let http = format!("http://127.0.0.1:{port}");
    for (name, value, told) in [
        ("DATABASE_URL", &*postgres("shoal_app"), "postgres.reachable"),
        ("DATABASE_REPLICA_URLS", &postgres("shoal_app"), "replica.reachable"),
        ("REDIS_URL", &format!("redis://127.0.0.1:{port}"), "redis.reachable"),
        ("S3_ENDPOINT", &http, "s3.reachable"),
        ("SHOAL_PAYMENTS_URL", &http, "partners.reachable"),
        ("SHOAL_SMTP_URL", &format!("smtp://127.0.0.1:{port}"), "partners.reachable"),
    ] {
        audited.audit_deployed(&[(name, value)]).await.expect_failed(told);
    }
    // Neither does one that is there and says nothing hold up the others.
    audited.redis.process().pause();
    let options = [&DEPLOYMENT[..], &["--patience", "10"]].concat();
    let report = audited.audit(&[], &options).await;
    audited.redis.process().resume();
    // On a busy machine another look may have taken as long.
    assert!(report.failed().contains(&"redis.reachable"), "{report:#?}");
    let silent = report.checks.iter().find(|check| check.check == "redis.reachable").unwrap();
    assert_eq!(silent.seen, "no answer within 10 s");
}

#[tokio::test]
async fn each_fault_of_redis_is_told() {
    let audited = Audited::start(0).await;
    let redis = &audited.redis;
    for (fault, heal, told) in [
        (
            "CONFIG SET maxmemory-policy allkeys-lru",
            "CONFIG SET maxmemory-policy noeviction",
            "redis.eviction",
        ),
        ("CONFIG SET maxmemory 0", "CONFIG SET maxmemory 268435456", "redis.maxmemory"),
        ("CONFIG SET appendonly yes", "CONFIG SET appendonly no", "redis.persistence"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "redis.primary"),
    ] {
        let _: Value = ask_redis(redis, fault).await;
        audited.audit_deployed(&[]).await.expect_failed(told);
        let _: Value = ask_redis(redis, heal).await;
    }
    assert_eq!(audited.audit_deployed(&[]).await.failed(), [""; 0]);
    // A user as providers give: reached, though it may not be asked how it is.
    let _: Value = ask_redis(redis, "ACL SETUSER default -info").await;
    let report = audited.audit_deployed(&[]).await;
    let _: Value = ask_redis(redis, "ACL SETUSER default +info").await;
    assert_eq!(report.failed(), [""; 0]);
    assert!(report.skipped().contains(&"redis.eviction"), "{:?}", report.skipped());

    let nodes = format!("{},{}", redis.url(), redis.url());
    audited.audit_deployed(&[("REDIS_URL", &nodes)]).await.expect_failed("redis.cluster");

    let old = |bytes: &mut Vec<u8>| {
        for digit in b'6'..=b'9' {
            let version = [b"redis_version:", &[digit][..]].concat();
            replace(bytes, &version, b"redis_version:5");
        }
    };
    let forger = Forger::start(redis.port(), old).await;
    let url = format!("redis://127.0.0.1:{}", forger.port);
    audited.audit_deployed(&[("REDIS_URL", &url)]).await.expect_failed("redis.version");

    // An hour ahead: the answer to TIME has ten digits of seconds.
    let ahead = |bytes: &mut Vec<u8>| {
        if let Some(rest) = bytes.strip_prefix(b"*2\r\n$10\r\n") {
            let seconds: u64 = String::from_utf8_lossy(&rest[..10]).parse().unwrap();
            bytes.splice(9..19, (seconds + 3_600).to_string().into_bytes());
        }
    };
    let forger = Forger::start(redis.port(), ahead).await;
    let url = format!("redis://127.0.0.1:{}", forger.port);
    audited.audit_deployed(&[("REDIS_URL", &url)]).await.expect_failed("clock.skew");
}
