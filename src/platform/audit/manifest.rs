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
            Kind::Api => together(&mut deployment.api, workload),
            Kind::Worker => together(&mut deployment.worker, workload),
            // Each Postgres has a deployment of its own: the largest one counts.
            Kind::Pooler => deployment.poolers = deployment.poolers.max(workload.most_at_once()),
        }
    }
    // Autoscalers alone: by the names of their workloads. Beside workloads, those that are left are
    // of others.
    let alone = if is_described { HashMap::new() } else { most };
    for (target, replicas) in alone {
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

/// One more workload of the same role: a canary, or one per zone. Their replicas add up; of the
/// rest, what is the hardest to keep counts.
fn together(all: &mut Workload, one: Workload) {
    let Some(most) = all.most else {
        *all = one;
        return;
    };
    let sum = |a: Option<u32>, b: Option<u32>| Some(a?.saturating_add(b?));
    let at_once = sum(all.most_at_once(), one.most_at_once());
    all.most = sum(Some(most), one.most);
    all.surge = Surge::Pods(at_once.zip(all.most).map_or(0, |(at_once, most)| at_once - most));
    all.grace = all.grace.min(one.grace);
    all.pre_stop = all.pre_stop.max(one.pre_stop);
    all.pre_stop_is_unknown |= one.pre_stop_is_unknown;
    all.probes = all.probes.take().zip(one.probes).map(|(a, b)| Probes {
        liveness: either(a.liveness, b.liveness),
        readiness: either(a.readiness, b.readiness),
        startup: either(a.startup, b.startup),
    });
}

/// The path that both ask; else one that is none, and so is not the right one either.
fn either(a: Option<String>, b: Option<String>) -> Option<String> {
    if a == b { a } else { Some(format!("{} or {}", a?, b?)) }
}

/// `None` for what is no part of this service.
fn workload(document: &Value) -> Option<Deployed> {
    let spec = &document["spec"];
    let pod = &spec["template"]["spec"];
    let containers = pod["containers"].as_array()?;
    let (kind, container) = containers.iter().find_map(|one| Some((kind(one)?, one)))?;
    let hook = &container["lifecycle"]["preStop"];
    let pre_stop = hook["sleep"]["seconds"].as_i64();
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
            pre_stop_is_unknown: hook.is_object() && pre_stop.is_none(),
            probes: Some(Probes {
                liveness: path("livenessProbe"),
                readiness: path("readinessProbe"),
                startup: path("startupProbe"),
            }),
        },
    })
}

fn kind(container: &Value) -> Option<Kind> {
    match subcommand(container) {
        Some("serve") => Some(Kind::Api),
        Some("worker") => Some(Kind::Worker),
        _ if has_image(container, "pgbouncer") => Some(Kind::Pooler),
        _ => None,
    }
}

/// What the program is told to be: the word after its own; where nothing but arguments is said, the
/// first, since the image says the program. A `worker` elsewhere is somebody else's option.
fn subcommand(container: &Value) -> Option<&str> {
    let is_program = |word: &&str| word.rsplit('/').next() == Some("shoal");
    if container["command"].is_array() {
        return words(container).skip_while(|word| !is_program(word)).nth(1);
    }
    words(container).next()
}

fn has_image(container: &Value, name: &str) -> bool {
    container["image"].as_str().is_some_and(|image| image.contains(name))
}

/// Whether it is of this service, and one of its containers changes the schema.
fn migrates(document: &Value) -> bool {
    let pod = &document["spec"]["template"]["spec"];
    let all = || {
        let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
        lists.into_iter().flatten().flatten()
    };
    let is_ours =
        |one| has_image(one, "shoal") || matches!(kind(one), Some(Kind::Api | Kind::Worker));
    all().any(|one| words(one).any(|word| word == "migrate")) && all().any(is_ours)
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
        // Somebody else's schema is no concern of ours; an image of ours is, whatever it is told.
        let migrating = |image: &str| {
            let container = format!("{{ image: '{image}', args: [migrate] }}");
            let pod = format!("{{ spec: {{ containers: [ {container} ] }} }}");
            let text =
                format!("kind: Deployment\nmetadata: {{ name: m }}\nspec: {{ template: {pod} }}");
            read(&text).unwrap().migrate_at_start
        };
        assert_eq!(migrating("blog"), [""; 0]);
        assert_eq!(migrating("example/shoal:1"), ["m"]);
    }

    /// A Deployment of one container, with one more line of its specification.
    fn deployed(name: &str, container: &str) -> String {
        format!(
            "kind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n  replicas: 2\n  template:\n    \
             spec:\n      containers: [ {{ {container} }} ]\n---\n"
        )
    }

    #[test]
    fn roles_are_told_by_what_the_program_is_told_to_be() {
        for (container, api, worker) in [
            ("args: [serve]", Some(2), None),
            ("args: [worker, --quiet]", None, Some(2)),
            ("command: [/shoal], args: [serve]", Some(2), None),
            ("command: [/shoal, worker]", None, Some(2)),
            ("command: [sh, -c, exec /shoal serve]", Some(2), None),
            // Programs of others, which have such words as well.
            ("command: [celery], args: [worker]", None, None),
            ("args: [run, worker]", None, None),
            ("args: [worker, serve]", None, Some(2)),
        ] {
            let read = read(&deployed("one", container)).unwrap();
            assert_eq!((read.api.most, read.worker.most), (api, worker), "{container}");
        }
    }

    #[test]
    fn several_of_one_role_add_up_and_what_is_of_others_does_not() {
        let probe =
            |path: &str| format!("args: [serve], livenessProbe: {{ httpGet: {{ path: {path} }} }}");
        let scaler = "kind: HorizontalPodAutoscaler\n\
                      spec: { scaleTargetRef: { name: blog }, maxReplicas: 90 }\n---\n";
        let both = deployed("stable", &probe("/health/live")) + &deployed("canary", &probe("/x"));
        let read = read(&(both + scaler)).unwrap();
        // Two of each, and one more of each while it is rolled.
        assert_eq!((read.api.most, read.api.most_at_once()), (Some(4), Some(6)));
        assert_eq!(read.worker.most, None, "nobody's autoscaler tells of workers");
        let probes = read.api.probes.unwrap();
        assert_eq!(probes.liveness.as_deref(), Some("/health/live or /x"));
    }

    #[test]
    fn a_hook_is_as_long_as_it_sleeps_or_nobody_knows() {
        let hook = |hook: &str| {
            let container = format!("args: [serve], lifecycle: {{ preStop: {{ {hook} }} }}");
            let api = read(&deployed("one", &container)).unwrap().api;
            (api.pre_stop.as_secs(), api.pre_stop_is_unknown)
        };
        assert_eq!(hook("sleep: { seconds: 5 }"), (5, false));
        assert_eq!(hook("exec: { command: [sleep, '20'] }"), (0, true));
        assert_eq!(hook("httpGet: { path: /drain }"), (0, true));
        let none = read(&deployed("one", "args: [serve]")).unwrap().api;
        assert!(!none.pre_stop_is_unknown);
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
