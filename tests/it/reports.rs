//! Reports: what was sold, whatever way the events took; and the commands that look after them.

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
    support::{Client, Fleet, Reply, unique, until},
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

#[tokio::test]
async fn verify_finds_every_kind_of_difference() {
    let fleet = Fleet::one().await;
    let settings = settings(&fleet.database.name);
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let customer = fleet.client.register().await;
    let kept = place(&customer, &[(product, 3)]).await;
    let moved = place(&customer, &[(product, 4)]).await;
    cancel(&customer, &moved).await;
    let fine = shoal(&settings, &["events", "verify"], "").await;
    assert_eq!(fine.code, 0, "{}{}", fine.stdout, fine.stderr);
    assert!(fine.stdout.contains("2 orders are what their 3 events say"), "{}", fine.stdout);

    let mut connection = fleet.database.connect().await;
    let spoil = |what: &str, order: &str| what.replace('$', &format!("'{order}'"));
    for (wrong, of, why) in [
        ("update orders set status = 'paid' where id = $", &kept, "pending by its trail"),
        ("update orders set version = 3 where id = $", &moved, "has version 3 and 2 events"),
        ("update orders set total_amount = 1 where id = $", &kept, "total"),
        ("update order_items set quantity = 9 where order_id = $", &kept, "lines"),
        ("delete from events where subject_id = $", &kept, "no trail"),
        ("update events set sequence = 3 where subject_id = $ and sequence = 2", &moved, "missing"),
        ("delete from events where subject_id = $ and sequence = 1", &moved, "event 1 is missing"),
        (
            "update events set type = 'order.paid' where subject_id = $ and sequence = 2",
            &moved,
            "order.paid and says cancelled",
        ),
        (
            "update events set type = 'order.completed',
                 data = jsonb_set(data, '{status}', '\"completed\"')
             where subject_id = $ and sequence = 2",
            &moved,
            "from pending to completed",
        ),
        (
            "update events set data = jsonb_set(data, '{total_amount}', '7') where subject_id = $",
            &kept,
            "total",
        ),
        ("update events set customer_id = null where subject_id = $", &kept, "another customer"),
        ("update events set data = '{}' where subject_id = $", &kept, "cannot be read"),
        (
            "with gone as (delete from order_items where order_id = $)
          delete from orders where id = $",
            &kept,
            "does not exist",
        ),
    ] {
        connection.execute("create table kept_orders as select * from orders").await.unwrap();
        connection.execute("create table kept_items as select * from order_items").await.unwrap();
        connection.execute("create table kept_events as select * from events").await.unwrap();
        connection.execute(AssertSqlSafe(spoil(wrong, of))).await.unwrap();
        let found = shoal(&settings, &["events", "verify"], "").await;
        assert_eq!(found.code, 1, "{wrong}: {}", found.stdout);
        assert!(found.stdout.contains(of.as_str()), "{wrong}: {}", found.stdout);
        assert!(found.stdout.contains(why), "{wrong}: {}", found.stdout);
        assert_eq!(found.stdout.lines().count(), 1, "{wrong}: {}", found.stdout);
        for table in ["orders", "order_items", "events"] {
            let kept = table.replace("order_", "");
            let restore = format!(
                "delete from {table}; insert into {table} select * from kept_{kept};
                 drop table kept_{kept}"
            );
            sqlx::raw_sql(AssertSqlSafe(restore)).execute(&mut connection).await.unwrap();
        }
    }
    assert_eq!(shoal(&settings, &["events", "verify"], "").await.code, 0);
}
