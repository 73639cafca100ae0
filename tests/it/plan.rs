//! `shoal plan`: what it prints fits together, and fits into the manifests that are shipped.

use std::{collections::HashMap, fs};

use lab::autoscale::{Manifest, hpa::Target, manifest::documents};
use serde_json::{Value, json};
use shoal::platform::audit::{
    connections::{self, Connections},
    deployment::{Deployment, Workload},
};

use crate::{
    cli::{Output, shoal},
    support::{topology, unique},
};

/// What Postgres keeps for superusers.
const RESERVED_CONNECTIONS: u64 = 3;
/// PgBouncers before each Postgres: k8s/base/pgbouncer.yaml.
const POOLERS: u32 = 2;

async fn plan(arguments: &[&str]) -> Output {
    let mut all = vec!["plan"];
    all.extend(arguments);
    shoal(&HashMap::new(), &all, "").await
}

/// The number of a setting, whatever stands around it.
fn setting(text: &str, name: &str) -> u64 {
    let mut lines =
        text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(name));
    let value = lines.next().unwrap_or_else(|| panic!("there is no {name} in\n{text}"));
    value.trim_start_matches([' ', '=']).parse().unwrap()
}

/// What a patch of the kustomization puts at a path of an autoscaler.
fn patched(component: &Value, autoscaler: &str, path: &str) -> u64 {
    let patches = component["patches"].as_array().unwrap();
    let patch = patches.iter().find(|patch| patch["target"]["name"] == autoscaler).unwrap();
    let operations = &documents(patch["patch"].as_str().unwrap()).unwrap()[0];
    let operations = operations.as_array().unwrap();
    operations.iter().find(|operation| operation["path"] == path).unwrap()["value"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn the_fragments_fit_together_whatever_is_asked_for() {
    for (rps, p99) in [
        ("1", "200"),
        ("3000", "200"),
        ("20000", "500"),
        ("60000", "1000"),
        ("90000", "200"),
        ("200000", "200"),
    ] {
        let wanted = ["--rps", rps, "--p99", p99, "--most-connections", "2000", "--format"];
        let printed = plan(&[&wanted[..], &["yaml"]].concat()).await;
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        let component = documents(&printed.stdout).unwrap().remove(0);
        assert_eq!(component["kind"], "Component");
        let ini = plan(&[&wanted[..], &["ini"]].concat()).await.stdout;
        let of = |autoscaler| Workload {
            most: u32::try_from(patched(&component, autoscaler, "/spec/maxReplicas")).ok(),
            ..Workload::default()
        };
        // By the rules of `shoal audit`, which whoever follows the plan runs next.
        let connections = Connections {
            deployment: Deployment {
                api: of("shoal-api"),
                worker: of("shoal-worker"),
                poolers: Some(POOLERS),
                ..Deployment::default()
            },
            pool_size: setting(&printed.stdout, "SHOAL_DB_POOL_SIZE"),
            max_clients: Some(setting(&printed.stdout, "MAX_CLIENT_CONN")),
            servers: Some(setting(&ini, "default_pool_size")),
            reserve: 0,
            max_connections: Some(setting(&ini, "max_connections") - RESERVED_CONNECTIONS),
        };
        assert_eq!(connections::objections(&connections), [""; 0], "{}{ini}", printed.stdout);
        assert_eq!(
            setting(&ini, "max_client_conn"),
            setting(&printed.stdout, "MAX_CLIENT_CONN"),
            "the same in every form"
        );

        // The patches meet what they are for: the autoscaler of k8s/base comes out changed.
        let spec = Manifest::patched(std::slice::from_ref(&component)).unwrap().spec;
        assert_eq!(u64::from(spec.most), patched(&component, "shoal-api", "/spec/maxReplicas"));
        assert!(spec.fewest >= 3 && spec.fewest <= spec.most);
        let rate = spec.targets.iter().find_map(|target| match target {
            Target::Average { value, .. } => Some(*value),
            Target::Utilization { .. } => None,
        });
        // At the peak the autoscaler asks for fewer than it may have.
        let at_the_peak = rps.parse::<f64>().unwrap() / rate.unwrap();
        assert!(at_the_peak <= f64::from(spec.most), "{at_the_peak} of {}", spec.most);
    }
}

#[tokio::test]
async fn the_table_says_why_and_the_files_say_the_same() {
    let directory = topology().scratch_dir(&unique("plan"));
    let out = directory.to_str().unwrap();
    let told = plan(&["--rps", "5000", "--p99", "500", "--out", out]).await;
    assert_eq!(told.code, 0, "{}", told.stderr);
    for what in
        ["replicas at the peak", "default_pool_size", "rounded up, and one that may be lost"]
    {
        assert!(told.stdout.contains(what), "{}", told.stdout);
    }
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let (pooler, postgres) = (read("pgbouncer.ini"), read("postgresql.conf"));
    assert_eq!(
        setting(&pooler, "default_pool_size"),
        setting(&read("kustomization.yaml"), "DEFAULT_POOL_SIZE")
    );
    assert!(setting(&postgres, "max_connections") >= 100);
}

#[tokio::test]
async fn what_is_impossible_is_refused_with_a_way_out() {
    let directory = topology().scratch_dir(&unique("plan"));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("bench.json");
    let step = json!({ "connections": 8, "per_second": 4_000.0, "p99_us": 10_000.0,
        "primary_us": 100.0, "replicas_us": 50.0, "errors": 0, "cpu_us": 1.0 });
    let bench = json!({ "machine": { "date": "2026-01-01", "processor": "a test" },
        "knee": { "orders_share": 0.025, "connections": 8, "steps": [step] } });
    fs::write(&file, bench.to_string()).unwrap();
    let bench = file.to_str().unwrap();
    for (arguments, words) in [
        (vec!["--rps", "10", "--p99", "9", "--bench", bench], "--p99 10 or more"),
        (vec!["--rps", "900000", "--p99", "50", "--bench", bench], "raise --most-connections"),
        (vec!["--rps", "10", "--p99", "50", "--bench", "/nowhere"], "cannot read the bench file"),
        (vec!["--rps", "10", "--p99", "50", "--bench", "/dev/null"], "cargo lab bench --only knee"),
    ] {
        let refused = plan(&arguments).await;
        assert_eq!(refused.code, 1, "{arguments:?}: {}", refused.stdout);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert!(refused.stdout.is_empty());
    }
    let planned = plan(&["--rps", "10000", "--p99", "50", "--bench", bench]).await;
    assert!(planned.stdout.contains("a test"), "{}{}", planned.stdout, planned.stderr);
    // Nothing to plan for is a wrong argument.
    assert_eq!(plan(&["--rps", "0", "--p99", "50"]).await.code, 2);
}
