//! Webhooks where there are many: receivers that hang, rows that somebody holds, and what is left of
//! endpoints that are gone.

use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};

use crate::{
    support::{Answer, Client, Database, Fleet, Received, Receiver, metric, until},
    webhooks::{Webhook, emit},
    webhooks_delivery::hurry,
};

const DELIVERIES: &str = "select count(*) from webhook_deliveries";

/// Statements that wait to record what came of deliveries.
const WAITING: &str = "select count(*) from pg_stat_activity where datname = current_database()
    and wait_event_type = 'Lock' and query like '%webhook_deliveries%'";

async fn execute(database: &Database, sql: &str) {
    database.connect().await.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

async fn one_of_each() -> (Fleet, Client) {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    (fleet, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slow_receivers_delay_nobody_else() {
    // No time-out ends what hangs before the test does.
    let fleet = Fleet::of(1).with_workers().set("SHOAL_WEBHOOK_TIMEOUT_MS", "45000");
    let fleet = fleet.start().await;
    let admin = fleet.admin().await;
    let receiver = Receiver::start(|received| match received.path.as_str() {
        "/quick" => Answer::Status(200),
        _ => Answer::Hang,
    })
    .await;
    for number in 0..80 {
        Webhook::create(&admin, &receiver.url(&format!("/slow/{number}")), &["order.*"]).await;
    }
    // Of four at a time each, they would take all of the slots, and more.
    emit(&fleet, "order.paid", 10).await;
    until(async || receiver.hanging() >= 80).await;
    Webhook::create(&admin, &receiver.url("/quick"), &["user.*"]).await;
    emit(&fleet, "user.registered", 400).await;
    until(async || receiver.received("/quick").len() == 400).await;
    assert!(receiver.hanging() <= 128, "{}", receiver.hanging());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_makes_too_many_deliveries() {
    let (fleet, admin) = one_of_each().await;
    execute(
        &fleet.database,
        "create function refuse_more() returns trigger language plpgsql as $$
         begin
             if (select count(*) from made) > 2000 then raise 'too many at once'; end if;
             return null;
         end $$;
         create trigger refuse_more after insert on webhook_deliveries
             referencing new table as made for each statement execute function refuse_more();
         insert into paused_queues (queue) values ('webhooks')",
    )
    .await;
    let receiver = Receiver::content().await;
    for number in 0..30 {
        Webhook::create(&admin, &receiver.url(&format!("/{number}")), &["order.*"]).await;
    }
    emit(&fleet, "order.paid", 100).await;
    until(async || fleet.database.number(DELIVERIES).await == 3_000).await;
    let jobs = "select count(distinct args->>'delivery') from jobs where kind = 'webhooks.deliver'";
    assert_eq!(fleet.database.number(jobs).await, 3_000);
    let failed = "select count(*) from jobs where error is not null";
    assert_eq!(fleet.database.number(failed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_recorded_once_others_let_go() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::content().await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    fleet.database.be_impatient().await;
    execute(&fleet.database, "insert into paused_queues (queue) values ('webhooks')").await;
    emit(&fleet, "order.paid", 1).await;
    until(async || fleet.database.number(DELIVERIES).await == 1).await;
    // The first who wants to record it waits in vain, the next does not have to.
    let mut holder = fleet.database.connect().await;
    holder.execute("begin; select from webhook_deliveries for no key update").await.unwrap();
    execute(&fleet.database, "delete from paused_queues").await;
    until(async || fleet.database.number(WAITING).await == 1).await;
    until(async || fleet.database.number(WAITING).await == 0).await;
    holder.execute("rollback").await.unwrap();
    webhook.until_newest_is(&admin, "delivered", 1).await;
    assert_eq!(receiver.received("/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_to_be_left_alone_is_even_if_it_cannot_be_recorded() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|received: &Received| match received.path.as_str() {
        "/gone" => Answer::Status(410),
        _ => Answer::With(429, "retry-after", "600".to_owned()),
    })
    .await;
    Webhook::create(&admin, &receiver.url("/gone"), &["order.*"]).await;
    Webhook::create(&admin, &receiver.url("/busy"), &["order.*"]).await;
    fleet.database.be_impatient().await;
    execute(&fleet.database, "insert into paused_queues (queue) values ('webhooks')").await;
    emit(&fleet, "order.paid", 1).await;
    until(async || fleet.database.number(DELIVERIES).await == 2).await;
    let mut holder = fleet.database.connect().await;
    holder.execute("begin; select from webhook_deliveries for no key update").await.unwrap();
    execute(&fleet.database, "delete from paused_queues").await;
    let waiting =
        "select count(*) from jobs where kind = 'webhooks.deliver' and state = 'scheduled'
        and error is not null and run_at > now() + interval '5 minutes'";
    until(async || fleet.database.number(waiting).await == 2).await;
    holder.execute("rollback").await.unwrap();
    let unrecorded = "select count(*) from webhook_deliveries where attempts = 0";
    assert_eq!(fleet.database.number(unrecorded).await, 2);
    for path in ["/gone", "/busy"] {
        assert_eq!(receiver.received(path).len(), 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_recorded_together_each_as_its_own() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|received: &Received| match received.path.as_str() {
        "/gone" => Answer::Status(410),
        _ => Answer::Status(500),
    })
    .await;
    let gone = Webhook::create(&admin, &receiver.url("/gone"), &["order.*"]).await;
    let broken = Webhook::create(&admin, &receiver.url("/broken"), &["order.*"]).await;
    execute(&fleet.database, "insert into paused_queues (queue) values ('webhooks')").await;
    emit(&fleet, "order.paid", 50).await;
    until(async || fleet.database.number(DELIVERIES).await == 100).await;
    execute(&fleet.database, "delete from paused_queues").await;
    let left = "select count(*) from webhook_deliveries where attempts = 0";
    until(async || fleet.database.number(left).await == 0).await;
    let failed = "select count(*) from webhook_deliveries where state = 'failed'
        and next_attempt_at is null and (response_status = 410 or error like '%disabled%')";
    assert_eq!(fleet.database.number(failed).await, 50);
    let pending = "select count(*) from webhook_deliveries where state = 'pending'
        and response_status = 500 and attempts = 1 and error = 'answered 500'";
    assert_eq!(fleet.database.number(pending).await, 50);
    assert_eq!(gone.get(&admin).await["disabled_reason"], "gone");
    let shown = broken.get(&admin).await;
    assert!(shown["failing_since"].is_string() && shown["enabled"] == json!(true), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_deleted_webhook_fails() {
    let (fleet, admin) = one_of_each().await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 3).await;
    let tried = "select count(*) from webhook_deliveries where attempts = 1";
    until(async || fleet.database.number(tried).await == 3).await;
    let failed = admin.get(&format!("{}/deliveries?state=failed", webhook.path())).await;
    assert_eq!(failed.expect(200)["data"], json!([]));
    execute(
        &fleet.database,
        "update webhook_deliveries set state = 'failed', next_attempt_at = null
        where id in (select id from webhook_deliveries limit 1)",
    )
    .await;
    let failed = admin.get(&format!("{}/deliveries?state=failed", webhook.path())).await;
    assert_eq!(failed.expect(200)["data"].as_array().unwrap().len(), 1);
    assert_eq!(admin.delete(&webhook.path()).await.status, 204);
    let ended = "select count(*) from webhook_deliveries where error = 'the webhook was deleted'
        and state = 'failed'";
    until(async || {
        hurry(&fleet.database).await;
        fleet.database.number(ended).await == 2
    })
    .await;
    assert_eq!(receiver.received("/").len(), 3);
    assert_eq!(metric(&fleet, "webhook_deliveries_total{outcome=\"failed\"}"), 3.0);
}
