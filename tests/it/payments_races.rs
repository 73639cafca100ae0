//! Payments that meet something else in the middle: an order that expires, a worker that was frozen.

use lab::provider::{Provider, Status, Turn};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use crate::{
    payments::{Shop, place, trail, until_idle, until_status},
    support::{Cluster, Database, metric, until},
};

/// Statements that wait for a row which somebody else has locked.
const WAITING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'";
const ON_HAND: &str = "select on_hand::bigint from inventory";
const CHARGED: &str = "select count(*) from jobs where kind = 'payments.charge'";

/// Orders are overdue soon, and nothing but a test makes them expire: the ticks of the schedule
/// are taken.
async fn impatient_shop() -> Shop {
    let shop = Shop::with("SHOAL_ORDER_PAYMENT_SECS", "1").await;
    let ticks = "insert into schedule_ticks (schedule, tick)
        select 'orders.expire', date_bin('1 minute', now(), 'epoch') + n * interval '1 minute'
        from generate_series(0, 60) n on conflict do nothing";
    execute(&mut shop.fleet.database.connect().await, ticks).await;
    let begun = "select count(*) from jobs where kind = 'orders.expire' and state <> 'completed'";
    until(async || shop.fleet.database.number(begun).await == 0).await;
    shop
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// An order whose charge is with the provider, and which is overdue.
async fn being_charged(shop: &Shop) -> Uuid {
    let product = shop.admin.create_product(50, 1_050).await;
    shop.provider.next(&[Turn::Held]);
    let order = place(&shop.customer, product, "k").await;
    until(async || !shop.provider.charges(order).is_empty()).await;
    let overdue = "select count(*) from orders
        where id < uuid_at(clock_timestamp() - interval '1 second')";
    until(async || shop.fleet.database.number(overdue).await == 1).await;
    order
}

/// Enqueues what the schedule does: its job.
async fn expire(database: &Database) -> Uuid {
    let id = Uuid::now_v7();
    let job = format!(
        "insert into jobs (id, queue, kind, args, max_attempts)
         values ('{id}', 'orders', 'orders.expire', '{{}}', 1)"
    );
    execute(&mut database.connect().await, &job).await;
    id
}

async fn until_done(database: &Database, job: Uuid) {
    let done = "select exists (select from jobs where id = $1 and state = 'completed')";
    until(async || {
        let done = sqlx::query_scalar::<_, bool>(done).bind(job);
        done.fetch_one(&mut database.connect().await).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paid_while_it_expires_stays_paid() {
    let shop = impatient_shop().await;
    let database = &shop.fleet.database;
    let order = being_charged(&shop).await;
    // The order is paid for, but for the commit.
    let mut holder = database.connect().await;
    execute(&mut holder, "begin; select from payments for update").await;
    shop.provider.go_on();
    until(async || database.number(WAITING).await == 1).await;
    let expired = expire(database).await;
    until_done(database, expired).await;
    execute(&mut holder, "commit").await;
    until_status(&shop.customer, order, "paid").await;
    let expired = expire(database).await;
    until_done(database, expired).await;
    until_idle(database).await;
    assert_eq!(trail(&shop.customer, order).await, ["order.created", "order.paid"]);
    assert_eq!(shop.payment(order).await["status"], "captured");
    assert_eq!(shop.charge(order).status, Status::Captured);
    assert_eq!(database.number(ON_HAND).await, 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_while_it_is_paid_stays_cancelled() {
    let shop = impatient_shop().await;
    let database = &shop.fleet.database;
    let order = being_charged(&shop).await;
    // The order has expired, but for the commit.
    let mut holder = database.connect().await;
    execute(&mut holder, "begin; select from inventory for update").await;
    let expired = expire(database).await;
    until(async || database.number(WAITING).await == 1).await;
    shop.provider.go_on();
    until(async || database.number(WAITING).await == 2).await;
    execute(&mut holder, "commit").await;
    until_done(database, expired).await;
    until_idle(database).await;
    assert_eq!(trail(&shop.customer, order).await, ["order.created", "order.cancelled"]);
    until_status(&shop.customer, order, "cancelled").await;
    // What was taken is given back, once, as is the stock.
    assert_eq!(shop.payment(order).await["status"], "voided");
    assert_eq!(shop.charge(order).status, Status::Voided);
    assert_eq!(database.number(ON_HAND).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_job_settles_nothing() {
    let shop = Shop::open().await;
    let database = &shop.fleet.database;
    let product = shop.admin.create_product(50, 1_050).await;
    shop.provider.next(&[Turn::Held]);
    let order = place(&shop.customer, product, "k").await;
    until(async || !shop.provider.charges(order).is_empty()).await;
    // As another worker does after a rescue; this one does not know.
    let mut other = database.connect().await;
    let take_over = "update jobs set fence = fence + 1, attempt = attempt + 1, worker = 'another',
        lease_expires_at = now() + interval '1 hour' where kind = 'payments.charge'";
    execute(&mut other, take_over).await;
    shop.provider.go_on();
    let refused = "queue_job_duration_seconds_count{job=\"payments.charge\",outcome=\"failed\",\
                   queue=\"payments\"}";
    until(async || metric(&shop.fleet, refused) == 1.0).await;
    until_status(&shop.customer, order, "pending").await;
    assert_eq!(shop.payment(order).await["status"], "charging");
    // The other one is gone as well.
    execute(&mut other, "update jobs set lease_expires_at = now() where state = 'running'").await;
    until_status(&shop.customer, order, "paid").await;
    assert_eq!(shop.charge(order).asked, 2);
    assert_eq!(database.number(CHARGED).await, 1);
    assert_eq!(trail(&shop.customer, order).await, ["order.created", "order.paid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_frozen_while_it_charges_charges_once() {
    let provider = Provider::start().unwrap();
    let url = provider.url();
    let settings = [
        ("SHOAL_PAYMENTS_URL", url.as_str()),
        ("SHOAL_PAYMENTS_TIMEOUT_MS", "25000"),
        ("SHOAL_JOB_LEASE_MS", "3000"),
    ];
    let cluster = Cluster::start(1, &settings).await;
    let product = cluster.admin().await.create_product(50, 1_050).await;
    let customer = cluster.client.register().await;
    let mut frozen = cluster.worker("frozen");
    provider.next(&[Turn::Held, Turn::Held]);
    let order = place(&customer, product, "k").await;
    let asked = |times: usize| {
        let charges = provider.charges(order);
        charges.first().is_some_and(|charge| charge.asked >= times)
    };
    until(async || asked(1)).await;
    frozen.process().pause();
    let _other = cluster.worker("other");
    until(async || asked(2)).await;
    // Both are answered, and the frozen one hears of it together with the time that has passed.
    provider.go_on();
    provider.go_on();
    until_status(&customer, order, "paid").await;
    frozen.process().resume();
    frozen.process().stop();
    until_idle(&cluster.database).await;
    assert_eq!(provider.charges(order).len(), 1);
    assert_eq!(trail(&customer, order).await, ["order.created", "order.paid"]);
    let payment = customer.get(&format!("/v1/orders/{order}/payment")).await.expect(200);
    assert_eq!(payment["status"], json!("captured"));
    assert_eq!(cluster.database.number(ON_HAND).await, 48);
    assert_eq!(cluster.database.number(CHARGED).await, 1);
}
