//! Reports: what was sold, whatever way the events took; and the command that makes them anew.

use std::time::Duration;

use serde_json::{Value, json};
use shoal::{
    domain,
    platform::jobs::{self, Worker},
};
use sqlx::{AssertSqlSafe, Executor};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    cli::{settings, shoal},
    support::{Client, Fleet, Reply, pgbouncer, topology, unique, until},
};

/// Jobs of this resource that have not ended.
const UNFINISHED: &str =
    "select count(*) from jobs where queue = 'reports' and state <> 'completed'";

async fn place(client: &Client, items: &[(Uuid, i64)]) -> String {
    let placed = client.place_order(&unique("key"), items).await.expect(201);
    placed["id"].as_str().unwrap().to_owned()
}

async fn cancel(client: &Client, order: &str) {
    client.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await.expect(200);
}

/// Orders, units and amount of all days, by currency.
async fn totals(admin: &Client) -> Vec<(String, i64, i64, i64)> {
    let report = admin.get("/v1/reports/sales?limit=100").await.expect(200);
    let mut totals = std::collections::BTreeMap::<String, (i64, i64, i64)>::new();
    for row in report["data"].as_array().unwrap() {
        let sum = totals.entry(row["currency"].as_str().unwrap().to_owned()).or_default();
        let number = |name: &str| row[name].as_i64().unwrap();
        sum.0 += number("orders");
        sum.1 += number("units");
        sum.2 += number("total_amount");
    }
    totals.into_iter().map(|(currency, (a, b, c))| (currency, a, b, c)).collect()
}

fn euros(orders: i64, units: i64, amount: i64) -> Vec<(String, i64, i64, i64)> {
    vec![("EUR".to_owned(), orders, units, amount)]
}

async fn csv(admin: &Client, path: &str) -> Reply {
    Reply::of(admin.request(reqwest::Method::GET, path).header("accept", "text/csv")).await
}

#[tokio::test]
async fn sales_count_when_placed_and_are_taken_back_when_cancelled() {
    let fleet = Fleet::of(2).with_workers().start().await;
    let admin = fleet.admin().await;
    let (hook, line) = (admin.create_product(100, 250).await, admin.create_product(100, 40).await);
    let foreign = json!({
        "sku": unique("SKU"), "name": "=1+1", "description": "A thing.",
        "unit_amount": 900, "currency": "USD", "stock": 9,
    });
    let foreign = admin.post("/v1/products", &foreign).await.expect(201);
    let foreign: Uuid = foreign["id"].as_str().unwrap().parse().unwrap();
    let customer = fleet.client.register().await;
    place(&customer, &[(hook, 2), (line, 5)]).await;
    place(&customer, &[(line, 1)]).await;
    place(&customer, &[(foreign, 1)]).await;
    let regretted = place(&customer, &[(hook, 10)]).await;
    cancel(&customer, &regretted).await;
    let expected = [euros(2, 8, 740), vec![("USD".to_owned(), 1, 1, 900)]].concat();
    until(async || totals(&admin).await == expected).await;

    let per_product = admin.get("/v1/reports/sales?group_by=product&limit=2").await.expect(200);
    assert_eq!(per_product["data"].as_array().unwrap().len(), 2);
    assert_eq!(per_product["data"][0]["product_id"], json!(hook), "in the order of their ids");
    assert_eq!(per_product["data"][0]["units"], 2);
    assert_eq!(per_product["data"][1]["orders"], 2);
    let cursor = per_product["next_cursor"].as_str().unwrap();
    let rest = format!("/v1/reports/sales?group_by=product&cursor={cursor}");
    let rest = admin.get(&rest).await.expect(200);
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    assert_eq!((&rest["data"][0]["name"], &rest["has_more"]), (&json!("=1+1"), &json!(false)));
    let wrong = format!("/v1/reports/sales?group_by=day&cursor={cursor}");
    admin.get(&wrong).await.expect_problem(422, "validation_failed");

    let top = admin.get("/v1/reports/top-products?limit=1").await.expect(200);
    let names: Vec<&Value> =
        top["data"].as_array().unwrap().iter().map(|row| &row["product_id"]).collect();
    assert_eq!(names, [&json!(hook), &json!(foreign)], "the first of each currency");

    let reply = csv(&admin, "/v1/reports/sales?group_by=product").await;
    let text = reply.expect_text(200);
    assert!(reply.header("content-type").starts_with("text/csv"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "product_id,sku,name,currency,orders,units,total_amount");
    assert_eq!(lines.len(), 4, "all of them: {text}");
    assert!(lines[3].contains(",'=1+1,USD,1,1,900"), "{text}");
    let days = csv(&admin, "/v1/reports/sales").await;
    assert!(days.expect_text(200).contains(",EUR,2,8,740\r\n"));
    let top = csv(&admin, "/v1/reports/top-products").await;
    assert_eq!(top.expect_text(200).lines().count(), 4);
}

/// As JSON would be: the head of an answer that was sent could not be taken back.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_there_is_no_half_of_a_csv_file() {
    let mut poolers = [pgbouncer(topology().primary.port), pgbouncer(topology().replicas[0].port)];
    let ports = [poolers[0].port(), poolers[1].port()];
    let fleet = Fleet::of(1)
        .primary_pooler(ports[0])
        .replica_pooler(ports[1])
        .set("SHOAL_DB_ACQUIRE_TIMEOUT_MS", "1000")
        .start()
        .await;
    let admin = fleet.admin().await;
    assert_eq!(csv(&admin, "/v1/reports/sales").await.status, 200);
    for pooler in &mut poolers {
        pooler.process().stop();
    }
    for path in ["/v1/reports/sales", "/v1/reports/sales?group_by=product"] {
        csv(&admin, path).await.expect_problem(503, "database_unavailable");
    }
}

/// More than are read at once, so that what follows is read while the answer is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_csv_file_has_all_pages() {
    let fleet = Fleet::of(1).set("SHOAL_DB_POOL_SIZE", "1").start().await;
    let admin = fleet.admin().await;
    let mut connection = fleet.database.connect().await;
    let sold = "insert into daily_product_sales
            (product_id, currency, day, orders, units, total_amount)
        select gen_random_uuid(), 'EUR', now()::date, 1, n, n from generate_series(1, 2500) n";
    connection.execute(sold).await.unwrap();
    fleet.database.replicated().await;
    let reply = csv(&admin, "/v1/reports/sales?group_by=product").await;
    let text = reply.expect_text(200);
    let units = text.lines().skip(1).map(|line| line.split(',').nth(5).unwrap());
    let sum: i64 = units.map(|units| units.parse::<i64>().unwrap()).sum();
    assert_eq!((text.lines().count(), sum), (2_501, 2_500 * 2_501 / 2));
}

#[tokio::test]
async fn reports_are_for_administrators_and_sane_questions() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let customer = fleet.client.register().await;
    for path in ["/v1/reports/sales", "/v1/reports/top-products"] {
        fleet.client.get(path).await.expect_problem(401, "unauthorized");
        customer.get(path).await.expect_problem(403, "forbidden");
        assert_eq!(admin.get(path).await.expect(200)["data"], json!([]));
        for bad in [
            "from=2026-02-30",
            "from=2026-05-02&to=2026-05-01",
            "from=2024-01-01&to=2026-01-01",
            "limit=0",
            "limit=101",
        ] {
            let reply = admin.get(&format!("{path}?{bad}")).await;
            reply.expect_problem(422, "validation_failed");
        }
        let request = admin.request(reqwest::Method::GET, path).header("accept", "image/png");
        Reply::of(request).await.expect_problem(406, "not_acceptable");
    }
    admin.get("/v1/reports/sales?group_by=moon").await.expect_problem(422, "validation_failed");
}

/// A worker that does what those of a deployment do.
async fn work_until(fleet: &Fleet, is_done: impl AsyncFnMut() -> bool) {
    let app = fleet.app().clone();
    let poll = Duration::from_millis(50);
    let config =
        jobs::Config { poll, lease: Duration::from_secs(30), retention: Duration::from_secs(60) };
    let stores = (app.db.clone(), app.redis.clone());
    let metrics = shoal::platform::metrics::Metrics::new().unwrap();
    let worker = Worker::new(app.clone(), stores, domain::work(), config, &metrics).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let tasks = app.tasks.clone();
    let worker = tokio::spawn(async move {
        worker.run(&tasks, stopped.cancelled(), Duration::from_secs(5)).await;
    });
    until(is_done).await;
    stop.cancel();
    worker.await.unwrap();
}

#[tokio::test]
async fn events_may_come_in_any_order_and_more_than_once() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let customer = fleet.client.register().await;
    place(&customer, &[(product, 3)]).await;
    let regretted = place(&customer, &[(product, 4)]).await;
    cancel(&customer, &regretted).await;
    let mut connection = fleet.database.connect().await;
    connection.execute("delete from outbox").await.unwrap();
    for kind in ["cancelled", "created", "created", "cancelled"] {
        let insert = format!(
            "insert into jobs (id, queue, kind, args, max_attempts)
             select gen_random_uuid(), 'reports', 'reports.add_to_sales',
                    jsonb_build_object('event_ids', jsonb_agg(id)), 3
             from events where type = 'order.{kind}'"
        );
        connection.execute(AssertSqlSafe(insert)).await.unwrap();
        work_until(&fleet, async || fleet.database.number(UNFINISHED).await == 0).await;
    }
    assert_eq!(totals(&admin).await, euros(1, 3, 300));
}

#[tokio::test]
async fn a_rebuild_tells_what_was_wrong_and_leaves_what_is_right() {
    let fleet = Fleet::one().await;
    let settings = settings(&fleet.database.name);
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let customer = fleet.client.register().await;
    place(&customer, &[(product, 3)]).await;
    let regretted = place(&customer, &[(product, 4)]).await;
    cancel(&customer, &regretted).await;

    // Nothing is in the reports yet, which is not wrong; then all is, before its jobs have run.
    let compare = ["reports", "rebuild", "--dry-run"];
    assert_eq!(shoal(&settings, &compare, "").await.code, 0);
    let rebuilt = shoal(&settings, &["reports", "rebuild"], "").await;
    assert_eq!(rebuilt.code, 0, "{}", rebuilt.stderr);
    assert!(rebuilt.stdout.contains("of 3 events; the old ones were right"), "{}", rebuilt.stdout);
    assert_eq!(totals(&admin).await, euros(1, 3, 300));
    let left = "select count(*) from outbox";
    let is_done = async || {
        fleet.database.number(left).await == 0 && fleet.database.number(UNFINISHED).await == 0
    };
    work_until(&fleet, is_done).await;
    assert_eq!(totals(&admin).await, euros(1, 3, 300), "not counted twice");

    let mut connection = fleet.database.connect().await;
    for wrong in [
        "update daily_sales set units = units + 1",
        "update daily_sales set orders = orders - 1",
        "delete from daily_product_sales",
        "update daily_product_sales set currency = 'USD'",
        "delete from reported_events where sequence = 2",
    ] {
        connection.execute(wrong).await.unwrap();
        let compared = shoal(&settings, &compare, "").await;
        assert_eq!(compared.code, 1, "{wrong}: {}", compared.stdout);
        assert!(compared.stdout.contains("EUR"), "{wrong}: {}", compared.stdout);
        let rebuilt = shoal(&settings, &["reports", "rebuild"], "").await;
        assert_eq!(rebuilt.code, 0, "{wrong}: {}", rebuilt.stderr);
        assert!(rebuilt.stdout.contains("the old ones were wrong"), "{}", rebuilt.stdout);
        assert_eq!(shoal(&settings, &compare, "").await.code, 0, "{wrong}");
        assert_eq!(totals(&admin).await, euros(1, 3, 300), "{wrong}");
    }
}

/// A worker and reports whose jobs do not begin, until what was told so far is in a job.
async fn relay_all(fleet: &Fleet) {
    let mut connection = fleet.database.connect().await;
    let pause = "insert into paused_queues (queue) values ('reports')";
    connection.execute(pause).await.unwrap();
    let left = "select count(*) from outbox";
    work_until(fleet, async || fleet.database.number(left).await == 0).await;
}

#[tokio::test]
async fn what_no_job_will_add_is_found_and_added_by_a_rebuild() {
    let fleet = Fleet::one().await;
    let settings = settings(&fleet.database.name);
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let customer = fleet.client.register().await;
    let order = place(&customer, &[(product, 3)]).await;
    relay_all(&fleet).await;
    let compare = ["reports", "rebuild", "--dry-run"];
    let on_its_way = shoal(&settings, &compare, "").await;
    assert_eq!(on_its_way.code, 0, "{}", on_its_way.stdout);

    let job = "select id from jobs where kind = 'reports.add_to_sales'";
    let job: Uuid =
        sqlx::query_scalar(job).fetch_one(&mut fleet.database.connect().await).await.unwrap();
    let discard = format!("/v1/admin/jobs/{job}/discard");
    admin.post(&discard, &json!({})).await.expect(200);
    let compared = shoal(&settings, &compare, "").await;
    assert_eq!(compared.code, 1, "{}", compared.stdout);
    assert!(compared.stdout.contains(&order), "{}", compared.stdout);
    assert!(compared.stdout.contains("order.created is not in"), "{}", compared.stdout);
    let rebuilt = shoal(&settings, &["reports", "rebuild"], "").await;
    assert!(rebuilt.stdout.contains("the old ones were wrong"), "{}", rebuilt.stdout);
    assert_eq!(totals(&admin).await, euros(1, 3, 300));
    assert_eq!(shoal(&settings, &compare, "").await.code, 0);
}

#[tokio::test]
async fn a_comparison_waits_for_nobody_and_a_job_for_whoever_makes_the_sums_anew() {
    let fleet = Fleet::one().await;
    let settings = settings(&fleet.database.name);
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    place(&fleet.client.register().await, &[(product, 3)]).await;
    let mut rebuilding = fleet.database.connect().await;
    rebuilding
        .execute("begin; lock table reported_events in share row exclusive mode")
        .await
        .unwrap();
    fleet.database.be_impatient().await;
    let compared = shoal(&settings, &["reports", "rebuild", "--dry-run"], "").await;
    assert_eq!(compared.code, 0, "{}", compared.stderr);
    let postponed = "select count(*) from jobs where queue = 'reports' and fence > 0
        and state = 'scheduled' and attempt = 0 and error is null";
    work_until(&fleet, async || fleet.database.number(postponed).await == 1).await;
    rebuilding.execute("rollback").await.unwrap();
    work_until(&fleet, async || fleet.database.number(UNFINISHED).await == 0).await;
    assert_eq!(totals(&admin).await, euros(1, 3, 300));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_right_while_events_keep_coming() {
    let fleet = Fleet::of(2).with_workers().start().await;
    let settings = settings(&fleet.database.name);
    let admin = fleet.admin().await;
    let product = admin.create_product(10_000, 10).await;
    let mut customers = Vec::new();
    for _ in 0..4 {
        customers.push(fleet.client.register().await);
    }
    let stop = CancellationToken::new();
    let mut shoppers = tokio::task::JoinSet::new();
    for customer in customers {
        let stop = stop.clone();
        shoppers.spawn(async move {
            while !stop.is_cancelled() {
                let order = place(&customer, &[(product, 1)]).await;
                place(&customer, &[(product, 2)]).await;
                cancel(&customer, &order).await;
            }
        });
    }
    for _ in 0..5 {
        let rebuilt = shoal(&settings, &["reports", "rebuild"], "").await;
        assert_eq!(rebuilt.code, 0, "{}", rebuilt.stderr);
        assert!(rebuilt.stdout.contains("the old ones were right"), "{}", rebuilt.stdout);
    }
    stop.cancel();
    shoppers.join_all().await;
    let orders = "select count(*) from orders where status <> 'cancelled'";
    let orders = fleet.database.number(orders).await;
    assert!(orders > 0);
    until(async || totals(&admin).await == euros(orders, 2 * orders, 20 * orders)).await;
    let compared = shoal(&settings, &["reports", "rebuild", "--dry-run"], "").await;
    assert_eq!(compared.code, 0, "{}", compared.stdout);
    assert_eq!(shoal(&settings, &["events", "verify"], "").await.code, 0);
}
