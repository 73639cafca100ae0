//! Reads Kubernetes manifests for what no server says: numbers of replicas, time-outs, probes.
//!
//! As they are in a file, or as `kubectl kustomize` prints them. What is of no interest is passed
//! over, so that all manifests of a deployment can be given at once.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use super::deployment::{Deployment, Probes, Proxy, Surge, Workload};

/// What Kubernetes gives a pod that says nothing of it.
const GRACE: i64 = 30;

/// What the Ingress controller of nginx waits for, where nothing is said.
const INGRESS_READ_SECS: u64 = 60;

const READ_TIMEOUT: &str = "nginx.ingress.kubernetes.io/proxy-read-timeout";

/// A workload's own numbers, before those of its autoscaler are known.
struct Deployed {
    name: String,
    kind: Kind,
    replicas: Option<u32>,
    workload: Workload,
}

enum Kind {
    Api,
    Worker,
    Pooler,
}

/// Reads documents of YAML into one picture.
///
/// # Errors
/// It is no YAML, with the place.
pub fn read(text: &str) -> Result<Deployment, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let mut deployed = Vec::new();
    let mut most: HashMap<String, u32> = HashMap::new();
    let mut reads: Vec<u64> = Vec::new();
    let mut migrate_at_start = Vec::new();
    for document in documents.iter().filter(|document| document.is_object()) {
        match document["kind"].as_str() {
            Some("Deployment" | "StatefulSet" | "DaemonSet") => {
                if migrates(document) {
                    migrate_at_start.push(name(document));
                }
                deployed.extend(workload(document));
            }
            Some("HorizontalPodAutoscaler") => {
                let target =
                    document["spec"]["scaleTargetRef"]["name"].as_str().unwrap_or_default();
                let replicas = number(&document["spec"]["maxReplicas"]);
                most.extend(replicas.map(|replicas| (target.to_owned(), replicas)));
            }
            Some("Ingress") => {
                let said = document["metadata"]["annotations"][READ_TIMEOUT].as_str();
                reads.push(said.and_then(|secs| secs.parse().ok()).unwrap_or(INGRESS_READ_SECS));
            }
            _ => {}
        }
    }
    let is_described = !deployed.is_empty();
    let mut deployment = Deployment { migrate_at_start, is_described, ..Deployment::default() };
    for Deployed { name, kind, replicas, workload } in deployed {
        let most = most.remove(&name).or(replicas);
        let workload = Workload { most, ..workload };
        match kind {
            Kind::Api => deployment.api = workload,
            Kind::Worker => deployment.worker = workload,
            // Each Postgres has a deployment of its own: the largest one counts.
            Kind::Pooler => deployment.poolers = deployment.poolers.max(workload.most_at_once()),
        }
    }
    // An autoscaler whose workload was not given: by its name.
    for (target, replicas) in most {
        let workload =
            if target.contains("worker") { &mut deployment.worker } else { &mut deployment.api };
        workload.most = Some(replicas);
    }
    // An Ingress for certain paths waits for longer; all others have to make do with the least.
    deployment.proxy = reads.iter().min().map(|least| Proxy {
        read: Some(Duration::from_secs(*least)),
        longest_read: reads.iter().max().map(|longest| Duration::from_secs(*longest)),
        keepalive: None,
    });
    Ok(deployment)
}

/// `None` for what is no part of this service.
fn workload(document: &Value) -> Option<Deployed> {
    let spec = &document["spec"];
    let pod = &spec["template"]["spec"];
    let containers = pod["containers"].as_array()?;
    let (kind, container) = containers.iter().find_map(|one| Some((kind(one)?, one)))?;
    let pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64();
    let path = |probe: &str| container[probe]["httpGet"]["path"].as_str().map(str::to_owned);
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap_or(GRACE);
    Some(Deployed {
        name: name(document),
        kind,
        // One, if neither it nor an autoscaler says anything.
        replicas: number(&spec["replicas"]).or(Some(1)),
        workload: Workload {
            most: number(&spec["replicas"]).or(Some(1)),
            surge: surge(&spec["strategy"]),
            grace: Some(seconds(grace)),
            pre_stop: seconds(pre_stop.unwrap_or_default()),
            probes: Some(Probes {
                liveness: path("livenessProbe"),
                readiness: path("readinessProbe"),
                startup: path("startupProbe"),
            }),
        },
    })
}

fn kind(container: &Value) -> Option<Kind> {
    let says = |word: &str| words(container).any(|said| said == word);
    if says("serve") {
        Some(Kind::Api)
    } else if says("worker") {
        Some(Kind::Worker)
    } else if container["image"].as_str().is_some_and(|image| image.contains("pgbouncer")) {
        Some(Kind::Pooler)
    } else {
        None
    }
}

/// Whether one of its containers changes the schema.
fn migrates(document: &Value) -> bool {
    let pod = &document["spec"]["template"]["spec"];
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
    lists.into_iter().flatten().flatten().any(|one| words(one).any(|word| word == "migrate"))
}

/// Of the command and its arguments, those of a shell included.
fn words(container: &Value) -> impl Iterator<Item = &str> {
    let lists = ["command", "args"].map(|list| container[list].as_array());
    let said = lists.into_iter().flatten().flatten().filter_map(Value::as_str);
    said.flat_map(str::split_whitespace)
}

fn surge(strategy: &Value) -> Surge {
    if strategy["type"].as_str() == Some("Recreate") {
        return Surge::Pods(0);
    }
    match &strategy["rollingUpdate"]["maxSurge"] {
        pods @ Value::Number(_) => Surge::Pods(number(pods).unwrap_or_default()),
        Value::String(percent) => {
            percent.trim_end_matches('%').parse().map_or(Surge::default(), Surge::Percent)
        }
        _ => Surge::default(),
    }
}

fn name(document: &Value) -> String {
    document["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_i64()?).ok()
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(number.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: shop-api }
spec:
  strategy: { rollingUpdate: { maxSurge: 1 } }
  template:
    spec:
      terminationGracePeriodSeconds: 45
      initContainers:
        - { name: wait, command: [sh, -c, "until nc -z db 5432; do sleep 1; done"] }
      containers:
        - { name: logs, image: logs }
        - name: api
          args: [serve]
          livenessProbe: { httpGet: { path: /health/live } }
          lifecycle: { preStop: { sleep: { seconds: 5 } } }
---
kind: HorizontalPodAutoscaler
spec: { scaleTargetRef: { name: shop-api }, maxReplicas: 20 }
---
kind: Deployment
metadata: { name: shop-worker }
spec:
  replicas: 2
  template: { spec: { containers: [ { args: [worker] } ] } }
---
kind: Deployment
metadata: { name: pooler }
spec:
  replicas: 2
  strategy: { rollingUpdate: { maxSurge: 0 } }
  template: { spec: { containers: [ { image: "example/pgbouncer:1" } ] } }
---
kind: Ingress
metadata: { annotations: { nginx.ingress.kubernetes.io/proxy-read-timeout: "8" } }
---
kind: Ingress
"#;

    #[test]
    fn numbers_are_found_wherever_manifests_have_them() {
        let read = read(MANIFESTS).unwrap();
        let secs = Duration::from_secs;
        assert_eq!(read.api.most_at_once(), Some(21));
        assert_eq!((read.api.grace, read.api.pre_stop), (Some(secs(45)), secs(5)));
        let probes = read.api.probes.unwrap();
        assert_eq!(probes.liveness.as_deref(), Some("/health/live"));
        assert_eq!(probes.startup, None);
        assert_eq!((read.worker.most_at_once(), read.worker.grace), (Some(3), Some(secs(30))));
        assert_eq!(read.poolers, Some(2));
        let proxy = read.proxy.unwrap();
        assert_eq!((proxy.read, proxy.longest_read), (Some(secs(8)), Some(secs(60))));
        assert_eq!(read.migrate_at_start, [""; 0]);
    }

    #[test]
    fn who_migrates_whenever_it_starts_is_found() {
        let by_shell = MANIFESTS.replace("until nc -z db 5432; do sleep 1; done", "shoal migrate");
        assert_eq!(read(&by_shell).unwrap().migrate_at_start, ["shop-api"]);
        let as_job = by_shell.replace("kind: Deployment", "kind: Job");
        assert_eq!(read(&as_job).unwrap().migrate_at_start, [""; 0]);
    }

    #[test]
    fn an_autoscaler_alone_tells_its_number() {
        let scaler = |name: &str, most: u32| {
            format!(
                "kind: HorizontalPodAutoscaler\n\
                 spec: {{ scaleTargetRef: {{ name: {name} }}, maxReplicas: {most} }}\n---\n"
            )
        };
        let both = scaler("shop-api", 20) + &scaler("shop-worker", 10);
        let read = read(&both).unwrap();
        assert_eq!((read.api.most, read.worker.most), (Some(20), Some(10)));
        assert!(!read.is_described);
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place() {
        assert!(read("a: [").unwrap_err().contains("line"));
        assert_eq!(read("").unwrap().api, Workload::default());
    }
}
