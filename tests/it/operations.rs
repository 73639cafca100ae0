//! What operators and machines see: health, metrics, documentation, and what is on every answer.

use std::collections::{BTreeMap, HashMap, HashSet};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, Fleet, Reply, until};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn get_with(client: &Client, path: &str, headers: &[(&str, &str)]) -> Reply {
    let request = client.request(Method::GET, path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Reply::of(request).await
}

fn text(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

#[tokio::test]
async fn health_tells_of_the_process_and_of_each_dependency() {
    let fleet = Fleet::one().await;
    for (path, body) in
        [("/health", "live\n"), ("/health/live", "live\n"), ("/health/startup", "started\n")]
    {
        let reply = fleet.client.get(path).await;
        assert_eq!((reply.status, text(&reply)), (200, body));
    }
    // The replicas have to be found first, which happens in the background.
    let ready = async || fleet.client.get("/health/ready").await.expect(200);
    until(async || ready().await["degraded"] == false).await;
    let ready = ready().await;
    assert_eq!(ready["status"], "ready");
    let dependencies = ready["dependencies"].as_array().unwrap();
    let names: Vec<_> = dependencies.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["primary", "replica-1", "replica-2", "redis", "s3"]);
    for dependency in dependencies {
        assert_eq!(dependency["up"], true, "{ready}");
        let is_replica = dependency["name"].as_str().unwrap().starts_with("replica");
        assert_eq!(dependency["lag_seconds"].is_number(), is_replica, "{ready}");
    }
}

#[tokio::test]
async fn a_dependency_that_is_down_degrades_and_does_not_unready() {
    let mut fleet = Fleet::of(1).own_redis().set("SHOAL_REDIS_TIMEOUT_MS", "200").start().await;
    fleet.redis.as_mut().unwrap().process().stop();
    let ready = fleet.client.get("/health/ready").await.expect(200);
    assert_eq!((&ready["status"], &ready["degraded"]), (&json!("ready"), &json!(true)));
    let dependencies = ready["dependencies"].as_array().unwrap();
    assert!(dependencies.contains(&json!({ "name": "redis", "up": false })), "{ready}");
    assert!(dependencies.contains(&json!({ "name": "primary", "up": true })), "{ready}");
    fleet.client.get("/v1/products").await.expect(200);
}

/// Labels and value of each series, by name.
type Samples = HashMap<String, Vec<(String, f64)>>;

/// `name{labels} value` lines by name, with the declared type of each family.
fn parse_metrics(text: &str) -> (Samples, BTreeMap<String, String>) {
    let mut samples = Samples::new();
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            let repeated = families.insert(name.to_owned(), kind.to_owned());
            assert_eq!(repeated, None, "{name} is declared twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            samples.entry(name.to_owned()).or_default().push((labels.to_owned(), value));
        }
    }
    (samples, families)
}

#[tokio::test]
async fn metrics_count_what_happened_by_route_template() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    let customer = fleet.client.register().await;
    customer.place_order("k", &[(product, 1)]).await.expect(201);
    customer.place_order("k", &[(product, 1)]).await.expect(201);
    for _ in 0..2 {
        fleet.client.get(&format!("/v1/products/{product}")).await.expect(200);
    }
    fleet.client.get(&format!("/v1/products/{}", Uuid::now_v7())).await.expect(404);
    fleet.client.get("/v1/products").await.expect(200);
    fleet.client.get("/secret/path").await.expect(404);
    let odd = Method::from_bytes(b"BREW").unwrap();
    Reply::of(fleet.client.request(odd, "/v1/products")).await.expect(405);

    let reply = fleet.client.get("/metrics").await;
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4");
    let (samples, families) = parse_metrics(text(&reply));
    for (family, kind) in [
        ("http_requests_total", "counter"),
        ("http_request_duration_seconds", "histogram"),
        ("http_requests_in_flight", "gauge"),
        ("db_pool_connections", "gauge"),
        ("db_pool_acquire_seconds", "histogram"),
        ("db_reads_total", "counter"),
        ("redis_command_duration_seconds", "histogram"),
        ("cache_requests_total", "counter"),
        ("rate_limit_decisions_total", "counter"),
        ("idempotency_requests_total", "counter"),
        ("circuit_breaker_state", "gauge"),
        ("build_info", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_cpu_seconds_total", "counter"),
    ] {
        assert_eq!(families.get(family).map(String::as_str), Some(kind), "{family}");
    }
    let value = |name: &str, labels: &[&str]| -> f64 {
        let series = samples[name].iter();
        series.filter(|(has, _)| labels.iter().all(|label| has.contains(label))).map(|s| s.1).sum()
    };
    let requests = |labels: &[&str]| value("http_requests_total", labels);
    let item = "route=\"/v1/products/{id}\"";
    assert_eq!(requests(&["method=\"GET\"", item, "status=\"200\""]), 2.0);
    assert_eq!(requests(&["method=\"GET\"", item, "status=\"404\""]), 1.0);
    assert_eq!(requests(&["route=\"<unknown>\"", "status=\"404\""]), 1.0);
    assert_eq!(requests(&["method=\"OTHER\"", "status=\"405\""]), 1.0);
    let cache = |result| value("cache_requests_total", &["cache=\"product\"", result]);
    assert_eq!((cache("result=\"hit\""), cache("result=\"miss\"")), (1.0, 2.0));
    for outcome in ["executed", "replayed"] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(value("idempotency_requests_total", &[&label]), 1.0, "{outcome}");
    }
    for policy in ["default", "write"] {
        let labels = [policy, "decision=\"allowed\""];
        assert!(value("rate_limit_decisions_total", &labels) >= 3.0, "{policy}");
    }
    assert!(value("http_request_duration_seconds_bucket", &["le=\"0.05\""]) > 0.0);
    assert!(value("http_request_duration_seconds_bucket", &["le=\"0.2\""]) > 0.0);
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(value("build_info", &[&version]), 1.0);
    for private in ["secret", &product.to_string(), "BREW"] {
        assert!(!text(&reply).contains(private), "{private} became a label");
    }
}

#[tokio::test]
async fn machines_are_not_limited_nor_asked_who_they_are() {
    let fleet = Fleet::of(1).set("SHOAL_RATE_LIMIT_DEFAULT", "2/3600").start().await;
    let bad = fleet.client.with_token("no.good.token");
    for _ in 0..5 {
        for path in ["/health", "/health/live", "/health/startup", "/health/ready", "/metrics"] {
            let reply = bad.get(path).await;
            assert_eq!((reply.status, reply.header("ratelimit")), (200, ""), "{path}");
        }
    }
    for status in [200, 200, 429] {
        assert_eq!(fleet.client.get("/v1/products").await.status, status);
    }
}

#[tokio::test]
async fn the_start_page_is_for_people_and_programs() {
    let fleet = Fleet::one().await;
    let page = fleet.client.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let links = get_with(&fleet.client, "/", &[("accept", "application/json")]).await.expect(200);
    assert_eq!(links["name"], "shoal");
    assert_eq!(links["version"], env!("CARGO_PKG_VERSION"));
    for name in ["docs", "openapi", "health"] {
        let link = links[name].as_str().unwrap();
        assert!(text(&page).contains(&format!("\"{link}\"")), "{link} is not on the page");
        assert_eq!(fleet.client.get(link).await.status, 200, "{link}");
    }
    assert!(text(&page).contains(env!("CARGO_PKG_VERSION")));
}

/// What `page` refers to by `src` and `href`.
fn references(page: &str) -> Vec<&str> {
    ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|attribute| page.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

#[tokio::test]
async fn the_documentation_works_offline() {
    let fleet = Fleet::one().await;
    let redirect = fleet.client.get("/docs").await;
    assert_eq!((redirect.status, redirect.header("location")), (308, "/docs/"));
    for (path, base) in [("/docs/", "/docs/"), ("/", "/")] {
        let page = fleet.client.get(path).await;
        let found = references(text(&page));
        assert!(found.len() >= 3, "{found:?}");
        for reference in found {
            assert!(!reference.contains("//"), "{path} needs {reference}");
            let target = match reference.strip_prefix('/') {
                Some(_) => reference.to_owned(),
                None => format!("{base}{}", reference.trim_start_matches("./")),
            };
            let asset = fleet.client.get(&target).await;
            assert_eq!((asset.status, asset.body.is_empty()), (200, false), "{target}");
            if ["/v1/", "/health"].iter().any(|live| target.starts_with(live)) {
                continue;
            }
            assert_eq!(asset.header("cache-control"), "public, max-age=300");
            let known = [("if-none-match", asset.header("etag"))];
            let again = get_with(&fleet.client, &target, &known).await;
            assert_eq!((again.status, again.body.is_empty()), (304, true), "{target}");
            assert_eq!(again.header("etag"), asset.header("etag"));
        }
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'self'") || policy.contains("default-src 'none'"));
        assert!(!policy.contains("http"), "{policy}");
    }
    let initializer = fleet.client.get("/docs/swagger-initializer.js").await;
    assert!(text(&initializer).contains("\"/openapi.json\""), "it shows this API");
}

#[tokio::test]
async fn the_document_is_committed_and_served_as_it_is() {
    let fleet = Fleet::one().await;
    let current = serde_json::to_value(shoal::app::openapi()).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let committed: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(committed == current, "renew it: cargo run -p shoal -- openapi > openapi.json");
    assert_eq!(fleet.client.get("/openapi.json").await.expect(200), current);
    assert_eq!(current["openapi"], "3.1.0");
    let mut ids = HashSet::new();
    for (path, methods) in current["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(name.to_owned()), "{name} twice");
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let path = path.replace("{id}", &Uuid::nil().to_string());
            let reply = Reply::of(fleet.client.request(method.clone(), &path)).await;
            // Without a token and a body; a route that is missing would be 404 or 405.
            let is_public = ["/v1/products/", "/v1/files/"].iter().any(|of| path.starts_with(of));
            let is_public = is_public && method == Method::GET;
            let is_there = ![404, 405].contains(&reply.status) || is_public;
            assert!(is_there && reply.status < 500, "{method} {path}: {}", reply.status);
        }
    }
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_sane() {
    let fleet = Fleet::one().await;
    for path in ["/v1/products", "/v1/nothing", "/health/live"] {
        for sane in ["abc", "0/A=b+c:d_e.f-g", &"x".repeat(128)] {
            let reply = get_with(&fleet.client, path, &[("x-request-id", sane)]).await;
            assert_eq!(reply.header("x-request-id"), sane);
        }
        let mut made = HashSet::new();
        for bad in ["", "a b", "<script>", "a\tb", "ä", &"x".repeat(129)] {
            let reply = get_with(&fleet.client, path, &[("x-request-id", bad)]).await;
            let id: Uuid = reply.header("x-request-id").parse().expect("a new one");
            assert!(made.insert(id));
        }
        fleet.client.get(path).await.header("x-request-id").parse::<Uuid>().unwrap();
    }
}

#[tokio::test]
async fn an_event_knows_the_request_and_the_trace_it_came_from() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    let customer = fleet.client.register().await;
    let broken = TRACEPARENT.replace("00-4", "zz-4");
    for (key, traceparent) in [("good", TRACEPARENT), ("bad", &broken)] {
        let request = customer.request(Method::POST, "/v1/orders").header("idempotency-key", key);
        let request = request.header("x-request-id", key).header("traceparent", traceparent);
        Reply::of(request.json(&crate::support::order(&[(product, 1)]))).await.expect(201);
    }
    let mut connection = fleet.database.connect().await;
    let stored: Vec<(String, Option<String>)> = sqlx::query_as(
        "select request_id, traceparent from events where type = 'order.created' order by id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(
        stored,
        [("good".to_owned(), Some(TRACEPARENT.to_owned())), ("bad".to_owned(), None)]
    );
}

#[tokio::test]
async fn every_answer_carries_the_headers_that_protect_browsers() {
    let fleet = Fleet::one().await;
    for path in ["/v1/products", "/v1/orders", "/nothing", "/health/ready", "/metrics"] {
        let reply = fleet.client.get(path).await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        let policy = "default-src 'none'; frame-ancestors 'none'";
        assert_eq!(reply.header("content-security-policy"), policy, "{path}");
        assert_eq!(reply.header("strict-transport-security"), "", "{path}: without TLS");
        assert_eq!(reply.header("server"), "", "{path}");
        let behind_tls = get_with(&fleet.client, path, &[("x-forwarded-proto", "https")]).await;
        let hsts = behind_tls.header("strict-transport-security");
        assert!(hsts.starts_with("max-age=63072000"), "{path}: {hsts}");
    }
}

#[tokio::test]
async fn only_listed_origins_may_call_from_a_browser() {
    const LISTED: &str = "https://shop.example";
    let fleet = Fleet::of(1).set("SHOAL_CORS_ORIGINS", LISTED).start().await;
    let closed = Fleet::one().await;
    for (client, origin, allowed) in [
        (&fleet.client, LISTED, LISTED),
        (&fleet.client, "https://evil.example", ""),
        (&fleet.client, "null", ""),
        (&closed.client, LISTED, ""),
    ] {
        let reply = get_with(client, "/v1/products", &[("origin", origin)]).await;
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{origin}");
        let preflight = client.request(Method::OPTIONS, "/v1/orders").header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "POST");
        let reply = Reply::of(preflight.header("access-control-request-headers", "x")).await;
        assert_eq!(reply.header("access-control-allow-origin"), allowed, "{origin}");
        assert_eq!(reply.header("access-control-allow-credentials"), "");
        if !allowed.is_empty() {
            assert!(reply.header("access-control-allow-methods").contains("POST"));
        }
    }
}
