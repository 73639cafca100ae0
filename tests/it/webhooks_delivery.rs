//! Webhooks as their receivers see them.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    support::{Answer, Client, Database, Fleet, Receiver, metric, until},
    webhooks::{Webhook, emit},
};

/// Makes due what waits for its next attempt. What a worker has in its hands is left out: to wait
/// for it with other rows locked would be to wait in a circle, now and then.
pub async fn hurry(database: &Database) {
    let mut database = database.connect().await;
    for sql in [
        "update webhook_deliveries set next_attempt_at = now() where id in (
             select id from webhook_deliveries where state = 'pending'
             order by id for no key update skip locked)",
        "update jobs set run_at = now() where id in (
             select id from jobs where state = 'scheduled' and kind = 'webhooks.deliver'
             order by id for no key update skip locked)",
    ] {
        sqlx::query(sql).execute(&mut database).await.unwrap();
    }
}

/// The same once the job of every attempt that was made is scheduled: nothing is left out.
async fn hurry_all(database: &Database) {
    let recording = "select count(*) from jobs j
        join webhook_deliveries d on d.id = (j.args->>'delivery')::uuid
        where j.kind = 'webhooks.deliver' and j.state = 'running'
          and d.last_attempt_at >= j.started_at";
    until(async || database.number(recording).await == 0).await;
    hurry(database).await;
}

/// Seconds between the last attempt and the next, as they are stored.
async fn wait(database: &Database) -> f64 {
    let sql = "select extract(epoch from next_attempt_at - last_attempt_at)::float8
               from webhook_deliveries";
    sqlx::query_scalar(sql).fetch_one(&mut database.connect().await).await.unwrap()
}

async fn execute(database: &Database, sql: &'static str) {
    sqlx::query(sql).execute(&mut database.connect().await).await.unwrap();
}

async fn one_of_each() -> (Fleet, Client) {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    (fleet, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_those_who_asked_for_it() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::content().await;
    let all = Webhook::create(&admin, &receiver.url("/all"), &["*"]).await;
    let orders = Webhook::create(&admin, &receiver.url("/orders"), &["order.*"]).await;
    let paid = Webhook::create(&admin, &receiver.url("/paid"), &["order.paid"]).await;
    let off = Webhook::create(&admin, &receiver.url("/off"), &["*"]).await;
    admin.patch(&off.path(), &json!({ "enabled": false })).await.expect(200);
    let product = admin.create_product(10, 250).await;
    let customer = fleet.client.register().await;
    let order = customer.place_order("k", &[(product, 2)]).await.expect(201);
    until(async || receiver.received("/orders").len() == 1).await;
    let received = receiver.received("/orders").remove(0);
    assert!(received.is_signed_with(&orders.secret) && !received.is_signed_with(&all.secret));
    assert_eq!(received.headers["content-type"], "application/json");
    let body = received.json();
    assert_eq!(body["type"], "order.created");
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'), "{body}");
    assert_eq!(
        (&body["data"]["order_id"], &body["data"]["total_amount"]),
        (&order["id"], &json!(500))
    );
    assert_eq!(body["data"]["items"][0]["quantity"], 2);

    until(async || {
        let types: Vec<_> =
            receiver.received("/all").iter().map(|one| one.json()["type"].clone()).collect();
        types.contains(&json!("product.created")) && types.contains(&json!("order.created"))
    })
    .await;
    let delivery = orders.until_newest_is(&admin, "delivered", 1).await;
    assert_eq!((&delivery["id"], &delivery["response_status"]), (&json!(received.id), &json!(204)));
    assert_eq!(delivery["event_type"], "order.created");
    assert_eq!((paid.deliveries(&admin).await.len(), off.deliveries(&admin).await.len()), (0, 0));
    assert!(metric(&fleet, "webhook_deliveries_total{outcome=\"delivered\"}") >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_followed_by_the_schedule_to_its_end() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    let seconds = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
    for (attempts, seconds) in (1..).zip(seconds) {
        let delivery = webhook.until_newest_is(&admin, "pending", attempts).await;
        assert_eq!(
            (&delivery["response_status"], &delivery["error"]),
            (&json!(500), &json!("answered 500"))
        );
        let wait = wait(&fleet.database).await / f64::from(seconds);
        assert!((0.8..1.2).contains(&wait), "{attempts}: {wait}");
        // The job comes no sooner.
        let early = "select count(*) from jobs j join webhook_deliveries d
                     on (j.args->>'delivery')::uuid = d.id
                     where j.state = 'scheduled' and j.run_at >= d.next_attempt_at";
        until(async || fleet.database.number(early).await == 1).await;
        assert_eq!(receiver.received("/").len() as i64, attempts);
        hurry_all(&fleet.database).await;
    }
    let failed = webhook.until_newest_is(&admin, "failed", 10).await;
    assert_eq!(failed["next_attempt_at"], Value::Null);
    let ids: BTreeSet<_> = receiver.received("/").iter().map(|received| received.id).collect();
    assert_eq!(ids.len(), 1);
    // That somebody else's server is broken is no dead letter of ours.
    until(async || {
        let open =
            "select count(*) from jobs where kind = 'webhooks.deliver' and state <> 'completed'";
        fleet.database.number(open).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_may_ask_to_be_left_alone_for_a_while() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|received| match received.before {
        0 => Answer::With(429, "retry-after", "600".to_owned()),
        _ => Answer::Status(200),
    })
    .await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    webhook.until_newest_is(&admin, "pending", 1).await;
    assert!((599.0..601.0).contains(&wait(&fleet.database).await));
    until(async || {
        hurry(&fleet.database).await;
        webhook.deliveries(&admin).await[0]["state"] == "delivered"
    })
    .await;
    let received = receiver.received("/");
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].id, received[1].id);
    assert_eq!(received[0].body, received[1].body);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_disabled_and_redirects_are_not_followed() {
    let (fleet, admin) = one_of_each().await;
    let elsewhere = Receiver::content().await;
    let target = elsewhere.url("/");
    let receiver = Receiver::start(move |received| match received.path.as_str() {
        "/gone" => Answer::Status(410),
        _ => Answer::With(302, "location", target.clone()),
    })
    .await;
    let gone = Webhook::create(&admin, &receiver.url("/gone"), &["order.*"]).await;
    let moved = Webhook::create(&admin, &receiver.url("/moved"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    let failed = gone.until_newest_is(&admin, "failed", 1).await;
    assert_eq!(failed["response_status"], 410);
    let shown = gone.get(&admin).await;
    assert_eq!((&shown["enabled"], &shown["disabled_reason"]), (&json!(false), &json!("gone")));
    let pending = moved.until_newest_is(&admin, "pending", 1).await;
    assert_eq!(pending["response_status"], 302);
    emit(&fleet, "order.paid", 1).await;
    until(async || moved.deliveries(&admin).await.len() == 2).await;
    assert_eq!(gone.deliveries(&admin).await.len(), 1, "it is told nothing more");
    let path = format!("{}/test", gone.path());
    admin.post(&path, &json!({})).await.expect_problem(409, "webhook_disabled");
    assert_eq!(elsewhere.received("/").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_days_of_failures_disable() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|_| Answer::Status(503)).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    webhook.until_newest_is(&admin, "pending", 1).await;
    assert!(webhook.get(&admin).await["failing_since"].is_string());
    let nearly = "update webhook_endpoints set failing_since = now() - interval '4 days 23 hours'";
    execute(&fleet.database, nearly).await;
    hurry_all(&fleet.database).await;
    webhook.until_newest_is(&admin, "pending", 2).await;
    assert_eq!(webhook.get(&admin).await["enabled"], true);
    let over = "update webhook_endpoints set failing_since = now() - interval '5 days 1 second'";
    execute(&fleet.database, over).await;
    hurry_all(&fleet.database).await;
    webhook.until_newest_is(&admin, "pending", 3).await;
    let shown = webhook.get(&admin).await;
    assert_eq!((&shown["enabled"], &shown["disabled_reason"]), (&json!(false), &json!("failing")));
    // What is left of the schedule comes to nothing.
    hurry_all(&fleet.database).await;
    webhook.until_newest_is(&admin, "failed", 4).await;
    assert_eq!(receiver.received("/").len(), 3);
    let again = admin.patch(&webhook.path(), &json!({ "enabled": true })).await.expect(200);
    assert_eq!((&again["enabled"], &again["failing_since"]), (&json!(true), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_ends_the_count_of_failures() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|received| match received.before {
        0 => Answer::Status(503),
        _ => Answer::Status(200),
    })
    .await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    webhook.until_newest_is(&admin, "pending", 1).await;
    assert!(webhook.get(&admin).await["failing_since"].is_string());
    hurry_all(&fleet.database).await;
    webhook.until_newest_is(&admin, "delivered", 2).await;
    // A worker has written it, of which the administrator's reads know nothing.
    until(async || webhook.get(&admin).await["failing_since"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_delivered_again_by_hand_under_the_same_id() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|received| match received.before {
        0 => Answer::Status(500),
        _ => Answer::Status(200),
    })
    .await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    let failed = webhook.until_newest_is(&admin, "pending", 1).await;
    let id = failed["id"].as_str().unwrap();
    let path = format!("{}/deliveries/{id}/redeliver", webhook.path());
    let begun = admin.post(&path, &json!({})).await.expect(202);
    assert_eq!((&begun["id"], &begun["attempts"]), (&json!(id), &json!(0)));
    webhook.until_newest_is(&admin, "delivered", 1).await;
    admin.post(&path, &json!({})).await.expect(202);
    until(async || receiver.received("/").len() == 3).await;
    webhook.until_newest_is(&admin, "delivered", 1).await;
    // The job of the first round, which waits for its second attempt, finds nothing to do.
    hurry_all(&fleet.database).await;
    until(async || {
        let open =
            "select count(*) from jobs where kind = 'webhooks.deliver' and state <> 'completed'";
        fleet.database.number(open).await == 0
    })
    .await;
    let received = receiver.received("/");
    assert_eq!(received.len(), 3);
    assert!(received.iter().all(|received| received.id.to_string() == id));
    let other = Webhook::create(&admin, &receiver.url("/"), &["user.*"]).await;
    let foreign = format!("{}/deliveries/{id}/redeliver", other.path());
    admin.post(&foreign, &json!({})).await.expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_an_earlier_round_does_nothing() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    let failed = webhook.until_newest_is(&admin, "pending", 1).await;
    let id = failed["id"].as_str().unwrap();
    let path = format!("{}/deliveries/{id}/redeliver", webhook.path());
    admin.post(&path, &json!({})).await.expect(202);
    until(async || receiver.received("/").len() == 2).await;
    webhook.until_newest_is(&admin, "pending", 1).await;
    until(async || {
        let first =
            "update jobs set run_at = now() where state = 'scheduled' and args->>'round' = '1'";
        execute(&fleet.database, first).await;
        let completed = "select count(*) from jobs
                         where kind = 'webhooks.deliver' and state = 'completed'";
        fleet.database.number(completed).await == 1
    })
    .await;
    assert_eq!(receiver.received("/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_told_twice_is_delivered_once() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::content().await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 3).await;
    let open = "select count(*) from jobs where state in ('available', 'running', 'scheduled')";
    let is_done = async || fleet.database.number(open).await == 0;
    until(async || receiver.received("/").len() == 3 && is_done().await).await;
    // As when a worker was killed before it had recorded that it was done.
    let again = "update jobs set state = 'available', finished_at = null
                 where kind = 'webhooks.fan_out'";
    execute(&fleet.database, again).await;
    until(is_done).await;
    assert_eq!(webhook.deliveries(&admin).await.len(), 3);
    assert_eq!(receiver.received("/").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_delays_nobody_else() {
    // No time-out ends what hangs before the test does.
    let fleet = Fleet::of(1).with_workers().set("SHOAL_WEBHOOK_TIMEOUT_MS", "45000");
    let fleet = fleet.start().await;
    let admin = fleet.admin().await;
    let receiver = Receiver::start(|received| match received.path.as_str() {
        "/slow" => Answer::Hang,
        _ => Answer::Status(200),
    })
    .await;
    Webhook::create(&admin, &receiver.url("/slow"), &["order.*"]).await;
    // More than there are slots, so that all would be taken.
    emit(&fleet, "order.paid", 400).await;
    until(async || receiver.hanging() > 0).await;
    Webhook::create(&admin, &receiver.url("/quick"), &["user.*"]).await;
    emit(&fleet, "user.registered", 400).await;
    until(async || receiver.received("/quick").len() == 400).await;
    assert!(receiver.hanging() <= 4, "{}", receiver.hanging());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_is_given_up() {
    let fleet = Fleet::of(1).with_workers().set("SHOAL_WEBHOOK_TIMEOUT_MS", "300").start().await;
    let admin = fleet.admin().await;
    let receiver = Receiver::start(|_| Answer::Hang).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    let pending = webhook.until_newest_is(&admin, "pending", 1).await;
    let said = (&pending["response_status"], &pending["error"]);
    assert_eq!(said, (&Value::Null, &json!("no answer in time")));
    until(async || receiver.hanging() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_too_early_waits_for_its_time() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|_| Answer::With(503, "retry-after", "600".to_owned())).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    webhook.until_newest_is(&admin, "pending", 1).await;
    let jobs = "select count(*) from jobs where kind = 'webhooks.deliver' and state = 'scheduled'";
    until(async || fleet.database.number(jobs).await == 1).await;
    // As when its worker was killed before it had recorded when to come again.
    execute(&fleet.database, "update jobs set run_at = now() where state = 'scheduled'").await;
    until(async || {
        let postponed = "select count(*) from jobs where kind = 'webhooks.deliver' and fence = 2
                         and state = 'scheduled' and run_at > now() + interval '5 minutes'";
        fleet.database.number(postponed).await == 1
    })
    .await;
    assert_eq!(receiver.received("/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_two_workers_make_counts_once() {
    let (fleet, admin) = one_of_each().await;
    let told = Arc::new(Notify::new());
    let answer = {
        let told = told.clone();
        move |received: &crate::support::Received| match received.before {
            0 => Answer::After(told.clone(), 500),
            1 => Answer::Status(500),
            _ => Answer::Status(200),
        }
    };
    let receiver = Receiver::start(answer).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    until(async || receiver.received("/").len() == 1).await;
    // The worker counts as gone, though it is not.
    let gone = "update jobs set lease_expires_at = now() - interval '1 minute'
                where kind = 'webhooks.deliver'";
    execute(&fleet.database, gone).await;
    webhook.until_newest_is(&admin, "pending", 1).await;
    told.notify_one();
    let failed = "webhook_deliveries_total{outcome=\"failed\"}";
    until(async || metric(&fleet, failed) == 2.0).await;
    until(async || {
        hurry(&fleet.database).await;
        webhook.deliveries(&admin).await[0]["state"] == "delivered"
    })
    .await;
    assert_eq!(webhook.deliveries(&admin).await[0]["attempts"], 2);
}
