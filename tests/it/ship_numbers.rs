//! The numbers that are shipped fit together: who waits for whom, and for how many connections.

use std::{fs, path::Path};

/// What the last tasks have after the drain: `platform/shutdown.rs`.
const LAST_TASKS_SECS: u64 = 5;
/// What Postgres keeps for migrations, replication and people.
const SPARE_CONNECTIONS: u64 = 10;

fn read(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The number that follows `key` where it stands first.
fn number(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("there is no {key}"));
    let rest = rest.trim_start_matches([' ', ':', '=', '"']);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("{key} has no number: {rest:.20}"))
}

/// How long a process may take to end after SIGTERM.
fn drain_secs(settings: &str) -> u64 {
    let millis = number(settings, "SHOAL_DRAIN_DELAY_MS") + number(settings, "SHOAL_DRAIN_CAP_MS");
    millis / 1000 + LAST_TASKS_SECS
}

#[test]
fn nobody_is_killed_while_draining() {
    let compose = read("docker-compose.scale.yml");
    assert!(number(&compose, "stop_grace_period") >= drain_secs(&compose));

    let drain = drain_secs(&read("k8s/base/config.env"));
    let (api, worker) = (read("k8s/base/api.yaml"), read("k8s/base/worker.yaml"));
    // Kubernetes counts the grace from before the preStop.
    let before = number(&api, "sleep: { seconds");
    assert!(number(&api, "terminationGracePeriodSeconds") >= before + drain);
    assert!(number(&worker, "terminationGracePeriodSeconds") >= drain);

    let drain = drain_secs(&read("systemd/shoal.env"));
    for unit in ["systemd/shoal-api@.service", "systemd/shoal-worker@.service"] {
        assert!(number(&read(unit), "TimeoutStopSec") >= drain, "{unit}");
    }
}

#[test]
fn proxies_wait_for_longer_than_the_program() {
    let deadline = number(&read(".env.example"), "SHOAL_REQUEST_TIMEOUT_MS") / 1000;
    let nginx = number(&read("nginx/nginx.conf"), "proxy_read_timeout");
    let ingress = number(&read("k8s/base/ingress.yaml"), "proxy-read-timeout");
    assert!(nginx > deadline && ingress > deadline, "{nginx} {ingress} {deadline}");
    // An idle connection to a replica is let go before its listener closes.
    let keepalive = number(&read("nginx/nginx.conf"), "        keepalive_timeout");
    let delay = number(&read("docker-compose.scale.yml"), "SHOAL_DRAIN_DELAY_MS") / 1000;
    assert!(keepalive < delay, "{keepalive} {delay}");
}

#[test]
fn proxies_wait_for_files_as_long_as_the_program() {
    let settings = read(".env.example");
    let millis =
        number(&settings, "SHOAL_BODY_TIMEOUT_MS") + number(&settings, "SHOAL_REQUEST_TIMEOUT_MS");
    let after = |path: &str, place: &str| {
        let text = read(path);
        text.split_once(place).unwrap_or_else(|| panic!("{path} has no {place}")).1.to_owned()
    };
    let nginx = after("nginx/nginx.conf", "location ~ ^/v1/(users/me/avatar|");
    let ingress = after("k8s/base/ingress.yaml", "name: shoal-files");
    for wait in [number(&nginx, "proxy_read_timeout"), number(&ingress, "proxy-read-timeout")] {
        assert!(wait * 1000 > millis, "{wait} s for {millis} ms");
    }
}

#[test]
fn connections_suffice_for_the_largest_fleet() {
    let settings = read("k8s/base/config.env");
    let most = number(&read("k8s/base/api-scaling.yaml"), "maxReplicas")
        + number(&read("k8s/base/worker-scaling.yaml"), "maxReplicas");
    let with_surge = most + most.div_ceil(4);
    let limits = read("k8s/base/kustomization.yaml");
    let clients = with_surge * number(&settings, "SHOAL_DB_POOL_SIZE");
    assert!(clients <= number(&limits, "MAX_CLIENT_CONN"), "{clients} clients");

    // Postgres as the repository configures it in containers.
    let postgres = number(&read("compose/postgres.sh"), "MAX_CONNECTIONS") - SPARE_CONNECTIONS;
    let poolers = number(&read("k8s/base/pgbouncer.yaml"), "replicas");
    let servers = poolers * number(&limits, "DEFAULT_POOL_SIZE");
    assert!(servers <= postgres, "{servers} of {postgres}");
    let composed = read("docker-compose.scale.yml");
    assert!(number(&composed, "DEFAULT_POOL_SIZE") <= postgres);
}

#[test]
fn a_number_is_found_in_every_notation() {
    assert_eq!(number("a: 1\nb=22\nc: \"333\"", "c"), 333);
    assert_eq!(number("a: 1\nb=22", "b"), 22);
    assert_eq!(number("seconds: 5 }", "seconds"), 5);
}
