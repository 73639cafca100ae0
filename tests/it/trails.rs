//! `shoal events verify`: every order is what its trail says.

use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};

use crate::{
    cli::{settings, shoal},
    support::{Fleet, unique},
};

#[tokio::test]
async fn verify_finds_every_kind_of_difference() {
    let fleet = Fleet::one().await;
    let settings = settings(&fleet.database.name);
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let customer = fleet.client.register().await;
    let place = async |quantity| {
        let placed = customer.place_order(&unique("key"), &[(product, quantity)]).await.expect(201);
        placed["id"].as_str().unwrap().to_owned()
    };
    let (kept, moved) = (place(3).await, place(4).await);
    customer.post(&format!("/v1/orders/{moved}/cancel"), &json!({})).await.expect(200);
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
        ("delete from order_items where order_id = $", &kept, "lines"),
        ("delete from order_items where order_id = $", &moved, "lines"),
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
