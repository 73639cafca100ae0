//! The numbers that are shipped fit together, by the rules of `shoal audit`: who waits for whom, and
//! for how many connections.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use shoal::{
    config::Config,
    platform::audit::{
        connections::{self, Connections},
        deployment::{Deployment, Surge, Workload},
        manifest, nginx,
        timeouts::{self, RoleTimeouts, Timings},
    },
};

fn read(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The number that follows `key` where it stands first.
fn number(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("there is no {key}"));
    let rest = rest.trim_start_matches([' ', ':', '=', '"', '\'']);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("{key} has no number: {rest:.20}"))
}

/// All of the base, as if it were one file.
fn base() -> Deployment {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s/base")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    let texts: Vec<String> = yaml.map(|path| fs::read_to_string(path).unwrap()).collect();
    manifest::read(&texts.join("\n---\n")).unwrap()
}

/// The base as the overlay for development changes it.
fn development() -> Deployment {
    let overlay = read("k8s/overlays/dev/kustomization.yaml");
    let mut deployment = base();
    let most = number(&overlay, "/spec/maxReplicas, value") as u32;
    (deployment.api.most, deployment.worker.most) = (Some(most), Some(most));
    deployment.poolers = Some(number(&overlay, "/spec/replicas, value") as u32);
    deployment
}

/// What compose starts. Its services are replaced, not rolled.
fn composed() -> Deployment {
    let compose = read("docker-compose.scale.yml");
    let grace = Some(Duration::from_secs(number(&compose, "stop_grace_period")));
    let of =
        |most| Workload { most: Some(most), surge: Surge::Pods(0), grace, ..Workload::default() };
    Deployment {
        // As many as the file speaks of.
        api: of(number(&compose, "of each of up to") as u32 - 1),
        worker: of(1),
        poolers: Some(1),
        proxy: Some(nginx::read(&read("nginx/nginx.conf")).unwrap()),
        ..Deployment::default()
    }
}

/// `NAME=value` of a file, and of `NAME: "value"`.
fn settings(text: &str) -> HashMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('=').or_else(|| line.split_once(": ")));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// The bounds of a deployment with these settings, and with the roles and the PgBouncer that are
/// shipped.
fn timings(settings: &HashMap<String, String>, deployment: &Deployment) -> (Timings, u64) {
    let lookup = |name: &str| match name {
        "DATABASE_URL" => Some("postgres://localhost/shoal".to_owned()),
        "REDIS_URL" => Some("redis://localhost".to_owned()),
        "JWT_PRIVATE_KEYS" => Some("unused".to_owned()),
        name => settings.get(name).filter(|_| !name.ends_with("_FILE")).cloned(),
    };
    let config = Config::read(&lookup).unwrap();
    let roles = read("postgres/roles.sql");
    let of_role = |name| Duration::from_secs(number(&roles, &format!("set {name} =")));
    let (http, server) = (&config.http.layers, &config.http.server);
    let timings = Timings {
        request: http.request_timeout,
        body: http.body_timeout,
        acquire: config.database.acquire_timeout,
        look: config.database.look_timeout,
        redis: config.redis.timeout,
        s3: config.storage.timeout,
        lease: config.jobs.lease,
        drain_delay: server.drain_delay,
        drain_cap: server.drain_cap,
        role: Some(RoleTimeouts {
            statement: of_role("statement_timeout"),
            lock: of_role("lock_timeout"),
            idle_in_transaction: of_role("idle_in_transaction_session_timeout"),
        }),
        query_wait: Some(Duration::from_secs(number(
            &read("pgbouncer/pgbouncer.ini"),
            "\nquery_wait_timeout",
        ))),
        proxy: deployment.proxy,
    };
    (timings, config.database.pool_size as u64)
}

/// What does not fit, of all rules.
fn objections(
    deployment: &Deployment,
    settings: &HashMap<String, String>,
    limits: &str,
) -> Vec<String> {
    // Postgres as the repository configures it in containers.
    objections_behind(&read("compose/postgres.sh"), deployment, settings, limits)
}

/// The same before a Postgres that `postgres` says the `MAX_CONNECTIONS` of.
fn objections_behind(
    postgres: &str,
    deployment: &Deployment,
    settings: &HashMap<String, String>,
    limits: &str,
) -> Vec<String> {
    let (timings, pool_size) = timings(settings, deployment);
    // Three are superusers'.
    let max_connections = number(postgres, "MAX_CONNECTIONS") - 3;
    let connections = Connections {
        deployment: deployment.clone(),
        pool_size,
        max_clients: Some(number(limits, "MAX_CLIENT_CONN")),
        servers: Some(number(limits, "DEFAULT_POOL_SIZE")),
        reserve: 0,
        max_connections: Some(max_connections),
    };
    let mut found = connections::objections(&connections);
    found.extend(timeouts::objections(&timings, deployment));
    found
}

#[test]
fn what_is_shipped_for_kubernetes_fits() {
    let (base, development) = (base(), development());
    assert_eq!((base.api.most, base.worker.most), (Some(20), Some(10)), "found in the manifests");
    assert_eq!((base.poolers, development.poolers), (Some(2), Some(1)));
    assert_eq!((development.api.most, development.worker.most), (Some(3), Some(3)));
    assert_eq!(base.migrate_at_start, [""; 0]);
    let settings = settings(&read("k8s/base/config.env"));
    let limits = read("k8s/base/kustomization.yaml");
    for deployment in [&base, &development] {
        assert_eq!(objections(deployment, &settings, &limits), [""; 0]);
    }

    let mut large = base.clone();
    large.api.most = Some(80);
    assert_eq!(objections(&large, &settings, &limits).len(), 1, "clients");
    let crowded = Deployment { poolers: Some(3), ..base.clone() };
    assert_eq!(objections(&crowded, &settings, &limits).len(), 1, "servers");
    let mut hasty = base.clone();
    hasty.api.grace = Some(Duration::from_secs(39));
    assert_eq!(objections(&hasty, &settings, &limits).len(), 1, "grace");
    let mut impatient = base;
    impatient.proxy.iter_mut().for_each(|proxy| proxy.read = Some(Duration::from_secs(5)));
    assert_eq!(objections(&impatient, &settings, &limits).len(), 1, "proxy");
}

#[test]
fn what_is_shipped_for_compose_fits() {
    let compose = read("docker-compose.scale.yml");
    let settings = settings(&compose);
    assert_eq!(settings["SHOAL_DRAIN_CAP_MS"], "25000", "found in the file");
    assert_eq!(objections(&composed(), &settings, &compose), [""; 0]);
    let mut hasty = settings.clone();
    hasty.insert("SHOAL_DRAIN_DELAY_MS".to_owned(), "4000".to_owned());
    assert_eq!(objections(&composed(), &hasty, &compose).len(), 1, "keepalive");
}

#[test]
fn what_is_shipped_for_a_plain_machine_fits() {
    let settings = settings(&read("systemd/shoal.env"));
    let manual = read("docs/operations.md");
    // Units are restarted, one after the other: never more than there are.
    let of = |unit: &str, option: &str| Workload {
        most: Some(number(&manual, option) as u32),
        surge: Surge::Pods(0),
        grace: Some(Duration::from_secs(number(&read(unit), "TimeoutStopSec"))),
        ..Workload::default()
    };
    let deployment = Deployment {
        api: of("systemd/shoal-api@.service", "shoal audit --max-replicas"),
        worker: of("systemd/shoal-worker@.service", "--max-workers"),
        poolers: Some(1),
        proxy: Some(nginx::read(&read("nginx/nginx.conf")).unwrap()),
        ..Deployment::default()
    };
    let set_up = read("systemd/set-up.sh");
    let objections =
        |deployment: &Deployment| objections_behind(&set_up, deployment, &settings, &set_up);
    assert_eq!(objections(&deployment), [""; 0]);
    let mut hasty = deployment.clone();
    hasty.worker.grace = Some(Duration::from_secs(30));
    assert_eq!(objections(&hasty).len(), 1, "grace");
    let crowded = Deployment { poolers: Some(2), ..deployment.clone() };
    assert_eq!(objections(&crowded).len(), 1, "servers");
    let mut large = deployment;
    large.api.most = Some(100);
    assert_eq!(objections(&large).len(), 1, "clients");
}

#[test]
fn an_ingress_waits_for_files_as_long_as_the_program() {
    let settings = read(".env.example");
    let millis =
        number(&settings, "SHOAL_BODY_TIMEOUT_MS") + number(&settings, "SHOAL_REQUEST_TIMEOUT_MS");
    let ingress = read("k8s/base/ingress.yaml");
    let (_, files) = ingress.split_once("name: shoal-files").unwrap();
    let wait = number(files, "proxy-read-timeout");
    assert!(wait * 1000 > millis, "{wait} s for {millis} ms");
}

#[test]
fn a_number_is_found_in_every_notation() {
    assert_eq!(number("a: 1\nb=22\nc: \"333\"", "c"), 333);
    assert_eq!(number("a: 1\nb=22", "b"), 22);
    assert_eq!(number("seconds: 5 }", "seconds"), 5);
    assert_eq!(number("set a = '3s'", "set a ="), 3);
}
