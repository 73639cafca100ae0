//! Payments: one charge per order, whatever the provider, the customer or a kill does.

use lab::provider::{Charge, Provider, Status, Turn};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

use crate::support::{Client, Cluster, Database, Fleet, metric, until};

/// A shop with a worker and a provider.
pub struct Shop {
    pub fleet: Fleet,
    pub provider: Provider,
    pub admin: Client,
    pub customer: Client,
}

impl Shop {
    pub async fn open() -> Self {
        Self::with("SHOAL_PAYMENTS_TIMEOUT_MS", "10000").await
    }

    /// One with a setting of its own.
    pub async fn with(name: &str, value: &str) -> Self {
        let provider = Provider::start().unwrap();
        let builder = Fleet::of(1).with_workers().set("SHOAL_PAYMENTS_URL", &provider.url());
        let fleet = builder.set(name, value).start().await;
        let (admin, customer) = (fleet.admin().await, fleet.client.register().await);
        Self { fleet, provider, admin, customer }
    }

    /// The only charge for an order.
    pub fn charge(&self, order: Uuid) -> Charge {
        let charges = self.provider.charges(order);
        assert_eq!(charges.len(), 1, "{charges:?}");
        charges[0].clone()
    }

    pub async fn payment(&self, order: Uuid) -> Value {
        self.customer.get(&format!("/v1/orders/{order}/payment")).await.expect(200)
    }

    pub async fn cancel(&self, order: Uuid) {
        self.customer.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await.expect(200);
    }
}

pub async fn place(customer: &Client, product: Uuid, key: &str) -> Uuid {
    let order = customer.place_order(key, &[(product, 2)]).await.expect(201);
    order["id"].as_str().unwrap().parse().unwrap()
}

pub async fn until_status(client: &Client, order: Uuid, status: &str) {
    let path = format!("/v1/orders/{order}");
    until(async || client.get(&path).await.expect(200)["status"] == status).await;
}

/// The types of an order's events.
pub async fn trail(client: &Client, order: Uuid) -> Vec<String> {
    let trail = client.get(&format!("/v1/orders/{order}/events")).await.expect(200);
    let types = trail["data"].as_array().unwrap().iter();
    types.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// Until no job is left that will ever be begun.
pub async fn until_idle(database: &Database) {
    let left = "select count(*) + (select count(*) from outbox) from jobs
        where state not in ('completed', 'dead')";
    until(async || database.number(left).await == 0).await;
}

#[tokio::test]
async fn an_order_is_charged_for_and_paid() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    let order = place(&shop.customer, product, "k").await;
    until_status(&shop.customer, order, "paid").await;
    let charge = shop.charge(order);
    assert_eq!((charge.amount, charge.currency.as_str()), (2_100, "EUR"));
    assert_eq!(charge.status, Status::Captured);
    assert_eq!(trail(&shop.customer, order).await, ["order.created", "order.paid"]);
    let payment = shop.payment(order).await;
    assert_eq!((&payment["status"], &payment["amount"]), (&json!("captured"), &json!(2_100)));
    let path = format!("/v1/orders/{order}/payment");
    assert_eq!(shop.admin.get(&path).await.expect(200), payment);
    let other = shop.fleet.client.register().await;
    other.get(&path).await.expect_problem(404, "not_found");
    other.anonymous().get(&path).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn a_declined_order_gives_its_stock_back() {
    let shop = Shop::open().await;
    // The simulator declines totals that end in 13.
    let product = shop.admin.create_product(50, 2_113).await;
    let order = shop.customer.place_order("k", &[(product, 1)]).await.expect(201);
    let order = order["id"].as_str().unwrap().parse().unwrap();
    until_status(&shop.customer, order, "payment_failed").await;
    assert_eq!(shop.admin.stock(product).await, 50);
    assert_eq!(shop.charge(order).status, Status::Declined);
    assert_eq!(shop.payment(order).await["reason"], "insufficient funds");
    assert_eq!(trail(&shop.customer, order).await, ["order.created", "order.payment_failed"]);
}

#[tokio::test]
async fn what_costs_nothing_is_paid_without_the_provider() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 0).await;
    let order = place(&shop.customer, product, "k").await;
    until_status(&shop.customer, order, "paid").await;
    assert_eq!(shop.provider.requests(), 0);
}

#[tokio::test]
async fn whatever_the_provider_answers_an_order_is_charged_for_once() {
    let shop = Shop::with("SHOAL_PAYMENTS_TIMEOUT_MS", "300").await;
    let product = shop.admin.create_product(50, 1_050).await;
    let turns = [
        Turn::DoesAndFails(500),
        Turn::Slow(Duration::from_secs(1)),
        Turn::Twice,
        Turn::Fails(503),
        Turn::Silent,
        Turn::Twice,
        Turn::DoesAndFails(502),
        Turn::Fails(401),
        Turn::Mistaken,
        Turn::DoesAndFails(204),
    ];
    shop.provider.next(&turns);
    let mut orders = Vec::new();
    for key in 0..turns.len() {
        orders.push(place(&shop.customer, product, &key.to_string()).await);
    }
    for order in &orders {
        until_status(&shop.customer, *order, "paid").await;
        assert_eq!(shop.charge(*order).status, Status::Captured);
        assert_eq!(trail(&shop.customer, *order).await, ["order.created", "order.paid"]);
    }
    let honest = 2;
    let expected = (orders.len() + turns.len() - honest) as u64;
    assert!(shop.provider.requests() >= expected, "{}", shop.provider.requests());
    assert_eq!(shop.admin.stock(product).await, 50 - 2 * orders.len() as i64);
}

#[tokio::test]
async fn what_is_said_of_another_order_or_without_end_is_not_believed() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    shop.provider.next(&[Turn::Mistaken]);
    let order = place(&shop.customer, product, "k1").await;
    until_status(&shop.customer, order, "paid").await;
    assert_eq!(shop.charge(order).asked, 2);
    shop.provider.next(&[Turn::Chatty]);
    let order = place(&shop.customer, product, "k2").await;
    until_status(&shop.customer, order, "paid").await;
    assert_eq!(shop.charge(order).asked, 2);
}

#[tokio::test]
async fn a_provider_that_asks_for_patience_is_given_an_hour() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    // It asks for a day.
    shop.provider.next(&[Turn::FailsFor(429, 86_400)]);
    place(&shop.customer, product, "k").await;
    let patient = "select count(*) from jobs where kind = 'payments.charge'
        and run_at between now() + interval '50 minutes' and now() + interval '70 minutes'";
    until(async || shop.fleet.database.number(patient).await == 1).await;
    assert_eq!(shop.provider.requests(), 1);
}

/// `Retry-After: 0` is what many a balancer answers for a service that is away.
#[tokio::test]
async fn a_provider_that_is_away_and_says_to_come_back_at_once_is_left_alone() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    shop.provider.always(Turn::FailsFor(503, 0));
    let mut orders = vec![place(&shop.customer, product, "k1").await];
    let failed = "select count(*) from jobs where kind = 'payments.charge'
        and state = 'scheduled' and error like '% 503'";
    until(async || shop.fleet.database.number(failed).await == 1).await;
    // Its next attempt is the eleventh, after which a quarter of an hour is usual.
    let late = "with late as (
            update jobs set attempt = 10, run_at = now() where kind = 'payments.charge'
                and state = 'scheduled' returning 1
        ) select count(*) from late";
    until(async || shop.fleet.database.number(late).await == 1).await;
    let patient = "select count(*) from jobs where kind = 'payments.charge' and attempt = 11
        and state = 'scheduled' and run_at > now() + interval '11 minutes'";
    until(async || shop.fleet.database.number(patient).await == 1).await;
    // With those of two others it has failed often enough to be left alone.
    for key in ["k2", "k3"] {
        orders.push(place(&shop.customer, product, key).await);
    }
    let breaker = "circuit_breaker_state{target=\"payments\"}";
    until(async || metric(&shop.fleet, breaker) == 1.0).await;
    shop.provider.always(Turn::Honest);
    let due = "update jobs set run_at = now() where state = 'scheduled'";
    sqlx::Executor::execute(&mut shop.fleet.database.connect().await, due).await.unwrap();
    for order in orders {
        until_status(&shop.customer, order, "paid").await;
        assert_eq!(shop.charge(order).status, Status::Captured);
    }
}

#[tokio::test]
async fn an_order_that_is_cancelled_while_it_is_charged_stays_so() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    shop.provider.next(&[Turn::Slow(Duration::from_secs(1))]);
    let order = place(&shop.customer, product, "k").await;
    until(async || !shop.provider.charges(order).is_empty()).await;
    shop.cancel(order).await;
    until(async || shop.provider.is_void(order)).await;
    // The late answer says that the money was taken.
    until_idle(&shop.fleet.database).await;
    until_status(&shop.customer, order, "cancelled").await;
    assert_eq!(shop.payment(order).await["status"], "voided");
    assert_eq!(shop.charge(order).status, Status::Voided);
    assert_eq!(shop.admin.stock(product).await, 50);
    assert_eq!(trail(&shop.customer, order).await, ["order.created", "order.cancelled"]);
}

#[tokio::test]
async fn what_was_paid_for_a_cancelled_order_is_given_back() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    let order = place(&shop.customer, product, "k").await;
    until_status(&shop.customer, order, "paid").await;
    // Not heard at first.
    shop.provider.next(&[Turn::Fails(500)]);
    shop.cancel(order).await;
    until(async || shop.payment(order).await["status"] == "voided").await;
    assert_eq!(shop.charge(order).status, Status::Voided);
    assert_eq!(shop.admin.stock(product).await, 50);
}

#[tokio::test]
async fn orders_wait_while_the_provider_is_away() {
    let shop = Shop::open().await;
    let product = shop.admin.create_product(50, 1_050).await;
    shop.provider.always(Turn::Fails(503));
    let mut orders = Vec::new();
    for key in 0..5 {
        orders.push(place(&shop.customer, product, &key.to_string()).await);
    }
    let breaker = "circuit_breaker_state{target=\"payments\"}";
    until(async || metric(&shop.fleet, breaker) == 1.0).await;
    let given_up = orders.pop().unwrap();
    until(async || {
        let path = format!("/v1/orders/{given_up}/payment");
        shop.customer.get(&path).await.status == 200
    })
    .await;
    shop.cancel(given_up).await;
    shop.provider.always(Turn::Honest);
    for order in orders {
        until_status(&shop.customer, order, "paid").await;
        assert_eq!(shop.charge(order).status, Status::Captured);
    }
    until(async || shop.payment(given_up).await["status"] == "voided").await;
    assert!(shop.provider.is_void(given_up));
    assert!(shop.provider.charges(given_up).is_empty());
}

#[tokio::test]
async fn without_a_provider_orders_stay_pending() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let product = fleet.admin().await.create_product(50, 1_050).await;
    let customer = fleet.client.register().await;
    let order = place(&customer, product, "k").await;
    until_idle(&fleet.database).await;
    until_status(&customer, order, "pending").await;
    let path = format!("/v1/orders/{order}/payment");
    customer.get(&path).await.expect_problem(404, "not_found");
}

/// The others of its fleet know of a provider, which shows in what has been charged.
#[tokio::test]
async fn a_worker_that_knows_of_no_provider_leaves_charges_to_others() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let product = fleet.admin().await.create_product(50, 1_050).await;
    let customer = fleet.client.register().await;
    let charged = place(&customer, product, "k1").await;
    until_idle(&fleet.database).await;
    let mut connection = fleet.database.connect().await;
    let insert = "insert into payments (order_id, customer_id, amount, currency)
        select id, customer_id, total_amount, currency from orders";
    sqlx::Executor::execute(&mut connection, insert).await.unwrap();
    let order = place(&customer, product, "k2").await;
    let postponed = "select count(*) from jobs where kind = 'payments.charge' and attempt = 0
        and state = 'scheduled' and run_at > now() + interval '10 seconds'";
    until(async || fleet.database.number(postponed).await == 1).await;
    // What is to be given back waits as well.
    for order in [charged, order] {
        customer.post(&format!("/v1/orders/{order}/cancel"), &json!({})).await.expect(200);
    }
    let voids = "select count(*) from jobs where kind = 'payments.void' and attempt = 0
        and state = 'scheduled' and run_at > now() + interval '10 seconds'";
    until(async || fleet.database.number(voids).await == 1).await;
    // Nobody has to pay for the second any more.
    let due = "update jobs set run_at = now() where kind = 'payments.charge'";
    sqlx::Executor::execute(&mut connection, due).await.unwrap();
    let done = "select count(*) from jobs where kind = 'payments.charge' and state = 'completed'";
    until(async || fleet.database.number(done).await == 2).await;
}

#[tokio::test]
async fn a_worker_killed_between_charge_and_commit_charges_once() {
    let provider = Provider::start().unwrap();
    let settings = [
        ("SHOAL_PAYMENTS_URL", provider.url()),
        ("SHOAL_JOB_LEASE_MS", "1500".to_owned()),
        ("SHOAL_JOB_POLL_MS", "100".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let cluster = Cluster::start(1, &settings).await;
    let product = cluster.admin().await.create_product(50, 1_050).await;
    let customer = cluster.client.register().await;
    let mut killed = cluster.worker("worker-1");
    // The money is taken, and the worker waits for the answer when it is killed.
    provider.next(&[Turn::Silent]);
    let order = place(&customer, product, "k").await;
    until(async || provider.charges(order).len() == 1).await;
    killed.process().kill();
    let _other = cluster.worker("worker-2");
    until_status(&customer, order, "paid").await;
    let charges = provider.charges(order);
    assert_eq!((charges.len(), charges[0].asked), (1, 2), "{charges:?}");
    // A worker has written it, of which the customer's reads know nothing.
    until(async || trail(&customer, order).await == ["order.created", "order.paid"]).await;
}
