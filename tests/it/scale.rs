//! What must hold because there are several replicas.

use futures::{StreamExt, stream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Client, Fleet};

/// Customers that are logged in already: what is measured is not hashing. They share one account
/// per four clients, as the same customer on several devices.
async fn customers(fleet: &Fleet, count: usize) -> Vec<Client> {
    // A few at a time, since each hashes a password.
    let accounts: Vec<Client> = stream::iter(0..count.div_ceil(4))
        .map(|_| fleet.client.register())
        .buffered(4)
        .collect()
        .await;
    (0..count).map(|index| accounts[index % accounts.len()].clone()).collect()
}

#[tokio::test]
async fn two_hundred_clients_cannot_buy_more_than_there_is() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let mut purchases = JoinSet::new();
    for (index, customer) in customers(&fleet, 200).await.into_iter().enumerate() {
        purchases
            .spawn(async move { customer.place_order(&index.to_string(), &[(product, 1)]).await });
    }
    let replies = purchases.join_all().await;
    let sold = replies.iter().filter(|reply| reply.status == 201).count();
    for refused in replies.iter().filter(|reply| reply.status != 201) {
        refused.expect_problem(409, "out_of_stock");
    }
    assert_eq!(sold, 100);
    assert_eq!(admin.stock(product).await, 0);
    assert_eq!(fleet.database.number("select count(*) from orders").await, 100);
    let units = "select sum(quantity)::bigint from order_items";
    assert_eq!(fleet.database.number(units).await, 100);
    let shown = admin.get(&format!("/v1/products/{product}")).await.expect(200);
    assert_eq!(shown["availability"], "out_of_stock");
}

/// Baskets name the same products in opposite orders: without a common lock order, they would
/// wait for each other in a circle, and Postgres would end one of them with an error.
#[tokio::test]
async fn crossed_baskets_do_not_deadlock() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let mut products = Vec::new();
    for _ in 0..6 {
        products.push(admin.create_product(1_000, 100).await);
    }
    let mut purchases = JoinSet::new();
    for (index, customer) in customers(&fleet, 60).await.into_iter().enumerate() {
        let mut basket: Vec<(Uuid, i64)> = products.iter().map(|product| (*product, 1)).collect();
        basket.rotate_left(index % 6);
        if index % 2 == 0 {
            basket.reverse();
        }
        purchases.spawn(async move { customer.place_order(&index.to_string(), &basket).await });
    }
    for reply in purchases.join_all().await {
        reply.expect(201);
    }
    for product in products {
        assert_eq!(admin.stock(product).await, 940);
    }
}

/// Every order has its events and every event its order; what was sold and what is left add up.
#[tokio::test]
async fn orders_events_and_stock_balance_after_a_rush() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let (hook, line) = (admin.create_product(60, 5).await, admin.create_product(25, 7).await);
    let mut rush = JoinSet::new();
    for (index, customer) in customers(&fleet, 80).await.into_iter().enumerate() {
        rush.spawn(async move {
            let basket = [(hook, 1 + (index as i64) % 3), (line, 1)];
            let reply = customer.place_order(&index.to_string(), &basket).await;
            if reply.status == 201 && index % 4 == 0 {
                let id = reply.json()["id"].as_str().unwrap().to_owned();
                let cancel = format!("/v1/orders/{id}/cancel");
                customer.post(&cancel, &serde_json::json!({})).await.expect(200);
            }
            reply
        });
    }
    for reply in rush.join_all().await {
        if reply.status != 201 {
            reply.expect_problem(409, "out_of_stock");
        }
    }
    let number = async |sql| fleet.database.number(sql).await;
    let without_event = "select count(*) from orders o where not exists
        (select from events e where e.subject_id = o.id and e.type = 'order.created')";
    assert_eq!(number(without_event).await, 0);
    let trail_length = "select count(*) from orders o where o.version <>
        (select count(*) from events e where e.subject_id = o.id)";
    assert_eq!(number(trail_length).await, 0);
    let without_order = "select count(*) from events e where e.type like 'order.%'
        and not exists (select from orders o where o.id = e.subject_id)";
    assert_eq!(number(without_order).await, 0);
    let sold = "select coalesce(sum(i.quantity), 0)::bigint from order_items i
        join orders o on o.id = i.order_id where o.status <> 'cancelled'";
    let left = "select sum(on_hand)::bigint from inventory";
    assert_eq!(number(sold).await + number(left).await, 60 + 25);
    let wrong_availability =
        "select count(*) from products p join inventory i on i.product_id = p.id
        where p.availability <> case when i.on_hand = 0 then 'out_of_stock'
            when i.on_hand <= 10 then 'low' else 'in_stock' end";
    assert_eq!(number(wrong_availability).await, 0);
}
