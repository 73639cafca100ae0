//! Webhooks whose rows two want at once: nobody waits in a circle, and nothing is lost of them.

use std::{array::from_fn, sync::Arc};

use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    support::{Answer, Database, Fleet, Receiver, metric, until},
    webhooks::{Webhook, emit},
};

const WAITING: &str = "select count(*) from pg_stat_activity where datname = current_database()
    and wait_event_type = 'Lock' and query like '%webhook_deliveries%'";
const FAILED_JOBS: &str = "select count(*) from jobs where error is not null";

async fn execute(connection: &mut PgConnection, sql: String) {
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// Somebody who has locked a delivery.
async fn holder(database: &Database, delivery: Uuid) -> PgConnection {
    let mut holder = database.connect().await;
    execute(&mut holder, "begin".to_owned()).await;
    lock(&mut holder, delivery).await;
    holder
}

async fn lock(holder: &mut PgConnection, delivery: Uuid) {
    let lock = "select from webhook_deliveries where id = $1 for no key update";
    sqlx::query(lock).bind(delivery).execute(holder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_recorded_in_the_order_of_ids() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    // They come to their end in this order, and are in the table in this order.
    let [first, greater, lesser] = [3, 2, 1].map(Uuid::from_u128);
    let gates: [Arc<Notify>; 3] = from_fn(|_| Arc::default());
    let answers = gates.clone();
    let receiver = Receiver::start(move |received| {
        Answer::After(answers[3 - received.id.as_u128() as usize].clone(), 204)
    })
    .await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    let mut database = fleet.database.connect().await;
    for id in [first, greater, lesser] {
        let insert = format!(
            "insert into webhook_deliveries (id, endpoint_id, event_id, event_type, body)
             values ('{id}', '{0}', gen_random_uuid(), 'order.paid', '{{}}');
             insert into jobs (id, queue, kind, max_attempts, args)
             values (gen_random_uuid(), 'webhooks', 'webhooks.deliver', 200,
                     '{{\"delivery\": \"{id}\", \"endpoint\": \"{0}\", \"round\": 1}}')",
            webhook.id
        );
        execute(&mut database, insert).await;
    }
    until(async || receiver.received("/").len() == 3).await;
    // While the first waits, the other two come together.
    let mut before = holder(&fleet.database, first).await;
    let mut other_worker = holder(&fleet.database, lesser).await;
    for (gate, answered) in gates.iter().zip(1..) {
        gate.notify_one();
        let delivered = "webhook_deliveries_total{outcome=\"delivered\"}";
        until(async || metric(&fleet, delivered) == f64::from(answered)).await;
        until(async || fleet.database.number(WAITING).await == 1).await;
    }
    execute(&mut before, "commit".to_owned()).await;
    let delivered = "select count(*) from webhook_deliveries where state = 'delivered'";
    until(async || fleet.database.number(delivered).await == 1).await;
    until(async || fleet.database.number(WAITING).await == 1).await;
    // Who goes by the order finds the next one free.
    lock(&mut other_worker, greater).await;
    execute(&mut other_worker, "commit".to_owned()).await;
    until(async || fleet.database.number(delivered).await == 3).await;
    assert_eq!(fleet.database.number(FAILED_JOBS).await, 0);
    assert_eq!(receiver.received("/").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_delivered_again_while_an_attempt_is_recorded() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    let told = Arc::new(Notify::new());
    let answer = told.clone();
    let receiver = Receiver::start(move |received| match received.before {
        0 => Answer::After(answer.clone(), 500),
        _ => Answer::Status(200),
    })
    .await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    until(async || receiver.received("/").len() == 1).await;
    let id = receiver.received("/")[0].id;
    let mut before = holder(&fleet.database, id).await;
    told.notify_one();
    until(async || fleet.database.number(WAITING).await == 1).await;
    let path = format!("{}/deliveries/{id}/redeliver", webhook.path());
    let nothing = json!({});
    let (again, ()) = tokio::join!(admin.post(&path, &nothing), async {
        until(async || fleet.database.number(WAITING).await == 2).await;
        execute(&mut before, "commit".to_owned()).await;
    });
    again.expect(202);
    webhook.until_newest_is(&admin, "delivered", 1).await;
    let circles = "select count(*) from jobs where error like '%deadlock%'";
    assert_eq!(fleet.database.number(circles).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_be_delivered_again_is_not_deleted() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let id = Uuid::from_u128(1);
    let mut database = fleet.database.connect().await;
    // The purge of the tick that the worker begins with.
    let ticked = "select count(*) from jobs where kind = 'webhooks.purge' and state = 'completed'";
    until(async || fleet.database.number(ticked).await == 1).await;
    let old = "insert into webhook_deliveries (id, endpoint_id, event_id, event_type, body,
                   state, next_attempt_at, created_at)
               values ($1, $1, $1, 'order.paid', '', 'delivered', null, now() - interval '31 days')";
    sqlx::query(old).bind(id).execute(&mut database).await.unwrap();
    let mut again = holder(&fleet.database, id).await;
    let pending = "update webhook_deliveries set state = 'pending', next_attempt_at = now()";
    execute(&mut again, pending.to_owned()).await;
    let purge = "insert into jobs (id, queue, kind, max_attempts, args)
                 values ($1, 'webhooks', 'webhooks.purge', 1, '{}')";
    sqlx::query(purge).bind(id).execute(&mut database).await.unwrap();
    let purged = "select count(*) from jobs where id = '00000000-0000-0000-0000-000000000001'
                  and state = 'completed'";
    until(async || fleet.database.number(purged).await + fleet.database.number(WAITING).await > 0)
        .await;
    execute(&mut again, "commit".to_owned()).await;
    until(async || fleet.database.number(purged).await == 1).await;
    assert_eq!(fleet.database.number("select count(*) from webhook_deliveries").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_of_an_earlier_round_does_not_end_the_next() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    let gates: [Arc<Notify>; 2] = from_fn(|_| Arc::default());
    let answers = gates.clone();
    let receiver =
        Receiver::start(move |received| Answer::After(answers[received.before].clone(), 204)).await;
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    emit(&fleet, "order.paid", 1).await;
    until(async || receiver.received("/").len() == 1).await;
    let path = format!("{}/deliveries/{}/redeliver", webhook.path(), receiver.received("/")[0].id);
    admin.post(&path, &json!({})).await.expect(202);
    until(async || receiver.received("/").len() == 2).await;
    gates[0].notify_one();
    let completed = "select count(*) from jobs where kind = 'webhooks.deliver'
                     and state = 'completed' and args->>'round' = '1'";
    until(async || fleet.database.number(completed).await == 1).await;
    webhook.until_newest_is(&admin, "pending", 0).await;
    gates[1].notify_one();
    webhook.until_newest_is(&admin, "delivered", 1).await;
}
