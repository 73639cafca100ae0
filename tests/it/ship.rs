//! What is shipped beside the program says what the program does: variables, metrics, images and
//! runbooks, by text search. Each rule has a test with a snippet that offends, so that it cannot
//! come to find nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Variables of images that are not ours.
const OF_OTHERS: [&str; 3] = ["GF_", "PROMETHEUS_URL", "REDISCLI_AUTH"];

/// The process metrics of the crate `prometheus`.
const OF_THE_PROCESS: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

/// Everything that makes a metric, up to its name.
const MAKERS: [&str; 11] = [
    ".counter(",
    ".counter_vec(",
    ".int_gauge(",
    ".int_gauge_vec(",
    ".gauge(",
    ".gauge_vec(",
    ".seconds(",
    ".seconds_vec(",
    "IntGauge::new(",
    "Gauge::new(",
    "Opts::new(",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(root().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The texts of the files below `under` whose names end in one of `endings`, one after the other.
fn read_all(under: &str, endings: &[&str]) -> String {
    let mut texts = Vec::new();
    let mut left: Vec<PathBuf> = vec![root().join(under)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            texts.push(fs::read_to_string(&path).unwrap());
        }
    }
    assert!(!texts.is_empty(), "nothing was found below {under}");
    texts.join("\n")
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The words of a text, each with what follows it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_part)?;
        let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |length| start + length);
        at = end;
        Some((&text[..start], &text[start..end], &text[end..]))
    })
}

/// The environment variables that a manifest sets: `NAME: value`, `NAME=value` and
/// `{ name: NAME, …`; without `_FILE`.
fn variables(manifest: &str) -> BTreeSet<String> {
    let is_name = |word: &str| {
        word.len() > 3
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let text = without_comments(manifest);
    let set = words(&text).filter_map(|(before, word, after)| {
        let is_key = word.ends_with(':') && is_name(word.trim_end_matches(':'));
        let is_assigned = after.starts_with('=') && is_name(word);
        let is_listed = before.ends_with("name: ") && after.starts_with(',') && is_name(word);
        (is_key || is_assigned || is_listed).then(|| word.trim_end_matches(':'))
    });
    set.map(|name| name.strip_suffix("_FILE").unwrap_or(name).to_owned()).collect()
}

/// What the program reads; with `required`, what it cannot do without.
fn of_the_program(required: bool) -> BTreeSet<String> {
    let example = read(".env.example");
    let lines = example.lines().filter(|line| !line.starts_with("# "));
    let names = lines.filter_map(|line| {
        let is_required = !line.starts_with('#');
        let (name, _) = line.trim_start_matches('#').split_once('=')?;
        (is_required || !required).then(|| name.to_owned())
    });
    names.collect()
}

/// Variables that neither the program nor one of the other images reads.
fn unknown(manifest: &str) -> Vec<String> {
    let scripts = ["pgbouncer/start.sh", "s3/start.sh", "compose/postgres.sh"].map(read).concat();
    let known = of_the_program(false);
    let is_known = |name: &str| {
        known.contains(name)
            || OF_OTHERS.iter().any(|other| name.starts_with(other))
            || words(&scripts)
                .any(|(_, word, _)| word.strip_suffix("_FILE").unwrap_or(word) == name)
    };
    variables(manifest).into_iter().filter(|name| !is_known(name)).collect()
}

fn missing(manifest: &str) -> Vec<String> {
    let set = variables(manifest);
    of_the_program(true).into_iter().filter(|name| !set.contains(name)).collect()
}

/// The files below /run/secrets that manifests name, by directory, and the keys of the secrets' templates.
fn secrets(manifests: &str, templates: &str) -> [BTreeSet<String>; 2] {
    let files = manifests.match_indices("/run/secrets/").filter_map(|(at, start)| {
        let path = manifests[at + start.len()..].split([' ', '}', '\n', ',']).next()?;
        path.split_once('/').map(|(_, file)| file.to_owned())
    });
    let keys = templates.split("stringData:").skip(1).flat_map(|secret| {
        let lines = secret.lines().skip(1).take_while(|line| line.starts_with("  "));
        lines.filter_map(|line| line.trim().split_once(": ").map(|(key, _)| key.to_owned()))
    });
    [files.collect(), keys.filter(|key| !key.starts_with('#')).collect()]
}

/// The names of the metrics that the source makes.
fn made() -> BTreeSet<String> {
    let source = read_all("src", &[".rs"]);
    let mut names: BTreeSet<String> = OF_THE_PROCESS.map(str::to_owned).into();
    for maker in MAKERS {
        for (at, _) in source.match_indices(maker) {
            let rest = source[at + maker.len()..].trim_start();
            let name = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

/// The metrics that queries name. In those, labels have no underscore, and functions a bracket.
fn queried(queries: &str) -> BTreeSet<String> {
    let bare = queries.replace("\\\"", "\"");
    let outside: Vec<&str> = bare.split('"').step_by(2).collect();
    let text = outside.join(" ");
    let names = words(&text).filter(|(before, word, after)| {
        word.contains('_') && !before.ends_with(['$', '<']) && !after.trim_start().starts_with('(')
    });
    names.map(|(_, word, _)| word.to_owned()).collect()
}

/// Metrics that are in a query and nowhere else.
fn never_made(queries: &str, recorded: &BTreeSet<String>) -> Vec<String> {
    let made = made();
    let is_made = |name: &str| {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        made.contains(name)
            || family.is_some_and(|name| made.contains(name))
            || recorded.contains(name)
    };
    queried(queries).into_iter().filter(|name| !is_made(name)).collect()
}

/// The values of a key in YAML, a block's lines included.
fn values(yaml: &str, key: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = yaml.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((before, value)) = line.split_once(&format!("{key}: ")) else { continue };
        if before.trim_matches(['-', ' ', '{']).is_empty() {
            let rest = lines[index + 1..].iter().take_while(|next| indent(next) > indent(line));
            let block: Vec<&str> = rest.map(|line| line.trim()).collect();
            found.push(if value == "|" { block.join(" ") } else { value.to_owned() });
        }
    }
    found
}

fn recorded() -> BTreeSet<String> {
    values(&read("monitoring/prometheus/rules/recording.yml"), "record").into_iter().collect()
}

/// The expressions of all panels.
fn panels() -> String {
    let all = fs::read_dir(root().join("monitoring/grafana/dashboards")).unwrap();
    let mut expressions = String::new();
    for file in all {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                expressions += target["expr"].as_str().unwrap();
                expressions.push('\n');
            }
        }
    }
    expressions
}

/// Images without a version, or with one that moves.
fn unpinned(text: &str) -> Vec<String> {
    let stages: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split(" AS ").nth(1)).collect();
    let from = text.lines().filter_map(|line| line.strip_prefix("FROM "));
    let from = from.map(|line| line.split(' ').next().unwrap().to_owned());
    let images = from.chain(values(text, "image"));
    let is_pinned = |image: &str| {
        let tag = image.rsplit('/').next().unwrap().split_once(':').map_or("", |(_, tag)| tag);
        tag.starts_with(|c: char| c.is_ascii_digit() || c == 'v') && tag.contains('.')
    };
    images.filter(|i| i != "scratch" && !stages.contains(&**i) && !is_pinned(i)).collect()
}

/// Alerts without a section in `manual`, or with an annotation that leads elsewhere.
fn without_runbook(rules: &str, manual: &str) -> Vec<String> {
    let alerts = values(rules, "alert");
    assert!(!alerts.is_empty(), "no alert was found");
    let has_section = |name: &str| manual.lines().any(|line| line == format!("### {name}"));
    let leads_there = |name: &str| {
        rules.contains(&format!("runbook: docs/operations.md#{}\n", name.to_lowercase()))
    };
    alerts.into_iter().filter(|name| !(has_section(name) && leads_there(name))).collect()
}

#[test]
fn manifests_name_variables_that_are_read() {
    let manifests = [
        read("docker-compose.scale.yml"),
        read_all("k8s", &[".yaml", ".env"]),
        read_all("systemd", &[".service", ".env"]),
    ];
    for manifest in manifests {
        assert!(variables(&manifest).len() > 10, "hardly any was found");
        assert_eq!(unknown(&manifest), Vec::<String>::new());
    }
    assert_eq!(unknown("SHOAL_MISSPELT: x"), ["SHOAL_MISSPELT"]);
    assert_eq!(unknown("- { name: REDIS_URI_FILE, value: /x }\n  PORTS=1"), ["PORTS", "REDIS_URI"]);
    assert_eq!(unknown("# SHOAL_GONE: x\nREDIS_URL_FILE: /x"), Vec::<String>::new());
}

#[test]
fn manifests_set_what_cannot_be_left_out() {
    assert_eq!(missing(&read("docker-compose.scale.yml")), Vec::<String>::new());
    assert_eq!(missing(&read_all("k8s/base", &[".yaml", ".env"])), Vec::<String>::new());
    assert_eq!(missing(&read_all("systemd", &[".service", ".env"])), Vec::<String>::new());
    assert!(missing("REDIS_URL: x").contains(&"DATABASE_URL".to_owned()));
}

#[test]
fn templates_have_the_secrets_that_are_mounted() {
    let manifests =
        [read_all("k8s/base", &[".yaml"]), read_all("k8s/overlays", &[".yaml"])].join("\n");
    let [files, keys] = secrets(&manifests, &read("k8s/secrets.example.yaml"));
    assert!(files.len() > 5, "hardly any was found");
    assert_eq!(files, keys);
    let [files, keys] =
        secrets("{ value: /run/secrets/a/b }", "stringData:\n  # no: key\n  c: d\nkind: x");
    assert_eq!((files, keys), (["b".to_owned()].into(), ["c".to_owned()].into()));
}

#[test]
fn what_is_queried_is_measured() {
    let recorded = recorded();
    let rules = read_all("monitoring/prometheus/rules", &[".yml"]);
    let adapter = read("k8s/prometheus-adapter.yaml");
    let queries =
        [values(&rules, "expr").join("\n"), panels(), values(&adapter, "- seriesQuery").join("\n")];
    for queries in queries {
        assert!(!queried(&queries).is_empty(), "no metric was found");
        assert_eq!(never_made(&queries, &recorded), Vec::<String>::new());
    }
    let wrong =
        r#"sum by (le) (rate(http_requests_seconds_bucket{route="no_metric"}[$__rate_interval]))"#;
    assert_eq!(never_made(wrong, &recorded), ["http_requests_seconds_bucket"]);
    assert_eq!(never_made("shoal:unheard_of:rate5m > 1", &recorded), ["shoal:unheard_of:rate5m"]);
}

#[test]
fn images_have_versions_that_stay() {
    let files = ["Dockerfile", "pgbouncer/Dockerfile", "s3/Dockerfile", "docker-compose.scale.yml"];
    for file in files {
        assert_eq!(unpinned(&read(file)), Vec::<String>::new(), "{file}");
    }
    assert_eq!(unpinned("FROM rust AS a\nFROM a\nFROM scratch"), ["rust"]);
    assert_eq!(unpinned("  image: redis:latest"), ["redis:latest"]);
    assert_eq!(unpinned("  image: host:5000/redis"), ["host:5000/redis"]);
    // In Kubernetes the base names images, and each overlay gives them their versions.
    let base = read_all("k8s/base", &[".yaml"]);
    for overlay in ["dev", "production"] {
        let overlay = read(&format!("k8s/overlays/{overlay}/kustomization.yaml"));
        for image in values(&base, "image") {
            let pinned = overlay.lines().any(|line| {
                line.contains(&format!("name: {image},")) && line.contains("newTag: 0.")
            });
            assert!(pinned, "{image}");
        }
    }
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let rules = read("monitoring/prometheus/rules/alerts.yml");
    let manual = read("docs/operations.md");
    assert_eq!(without_runbook(&rules, &manual), Vec::<String>::new());
    let tests = read("monitoring/prometheus/tests/alerts.yml");
    for alert in values(&rules, "alert") {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is never seen to fire");
    }
    assert_eq!(without_runbook("- alert: ShoalNew\n", "### ShoalOld"), ["ShoalNew"]);
}
