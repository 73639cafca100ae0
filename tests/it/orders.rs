//! Orders: placing, reading, the moves between states, the trail.

use serde_json::json;
use uuid::Uuid;

use crate::support::{Fleet, order};

#[tokio::test]
async fn an_order_is_what_was_bought_at_that_moment() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let (hook, line) = (admin.create_product(50, 199).await, admin.create_product(50, 1_050).await);
    let customer = fleet.client.register().await;
    let reply = customer.place_order("k", &[(hook, 3), (line, 1), (hook, 2)]).await;
    let placed = reply.expect(201);
    assert_eq!(placed["status"], "pending");
    assert_eq!(placed["total_amount"], 5 * 199 + 1_050);
    assert_eq!(placed["currency"], "EUR");
    let items = placed["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "duplicates are merged");
    assert_eq!((&items[0]["product_id"], &items[0]["quantity"]), (&json!(hook), &json!(5)));
    assert_eq!(admin.stock(hook).await, 45);

    let path = format!("/v1/products/{hook}");
    admin.patch(&path, &json!({ "name": "Dearer", "unit_amount": 999 })).await.expect(200);
    let location = reply.header("location").to_owned();
    let read = customer.get(&location).await;
    assert_eq!(read.expect(200), placed, "name and price are those of the order");
    assert_eq!(read.header("etag"), "\"1\"");
    assert_eq!(read.header("cache-control"), "no-store");
}

#[tokio::test]
async fn an_order_is_found_on_any_replica_right_after() {
    let fleet = Fleet::of(3).start().await;
    let product = fleet.admin().await.create_product(1_000, 100).await;
    let customer = fleet.client.register().await;
    for key in 0..20 {
        let placed = customer.place_order(&key.to_string(), &[(product, 1)]).await.expect(201);
        for replica in 0..3 {
            let client = fleet.only(replica).with_token(customer.token());
            let path = format!("/v1/orders/{}", placed["id"].as_str().unwrap());
            assert_eq!(client.get(&path).await.expect(200), placed);
            let list = client.get("/v1/orders?limit=1").await.expect(200);
            assert_eq!(list["data"][0]["id"], placed["id"]);
        }
    }
}

#[tokio::test]
async fn all_of_it_or_nothing() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let (plenty, scarce) =
        (admin.create_product(50, 100).await, admin.create_product(1, 100).await);
    let customer = fleet.client.register().await;
    let refused = customer.place_order("k", &[(plenty, 1), (scarce, 2)]).await;
    let problem = refused.expect_problem(409, "out_of_stock");
    assert_eq!(problem["errors"][0]["pointer"], "/items/1/quantity");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 1);
    assert_eq!((admin.stock(plenty).await, admin.stock(scarce).await), (50, 1));

    let unknown = Uuid::now_v7();
    let refused = customer.place_order("k", &[(plenty, 1), (unknown, 1)]).await;
    let problem = refused.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["pointer"], "/items/1/product_id");
    assert_eq!(problem["errors"][0]["code"], "unknown_product");

    let path = format!("/v1/products/{scarce}");
    assert_eq!(admin.delete(&path).await.status, 204);
    let refused = customer.place_order("k", &[(scarce, 1)]).await;
    assert_eq!(
        refused.expect_problem(422, "validation_failed")["errors"][0]["code"],
        "unknown_product"
    );
    assert_eq!(fleet.database.number("select count(*) from orders").await, 0);
    assert_eq!(admin.stock(plenty).await, 50);
}

#[tokio::test]
async fn currencies_do_not_mix() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let euros = admin.create_product(5, 100).await;
    let body = json!({ "sku": "P", "name": "P", "description": "P", "unit_amount": 1,
        "currency": "GBP", "stock": 5 });
    let pounds = admin.post("/v1/products", &body).await.expect(201)["id"].clone();
    let items = json!({ "items": [{ "product_id": euros, "quantity": 1 },
        { "product_id": pounds, "quantity": 1 }] });
    let customer = fleet.client.register().await;
    let refused = customer.post_with_key("/v1/orders", "k", &items).await;
    let problem = refused.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["code"], "mixed_currencies");
    assert_eq!(problem["errors"][0]["pointer"], "/items/1/product_id");
}

#[tokio::test]
async fn refuses_what_is_no_order() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    let customer = fleet.client.register().await;
    let many: Vec<_> = (0..51).map(|_| (Uuid::now_v7(), 1)).collect();
    for (body, pointer) in [
        (json!({ "items": [] }), "/items"),
        (order(&many), "/items"),
        (order(&[(product, 0)]), "/items/0/quantity"),
        (order(&[(product, 1_001)]), "/items/0/quantity"),
        (order(&[(product, -1)]), "/items/0/quantity"),
        (order(&[(product, 600), (product, 600)]), "/items/0/quantity"),
        (json!({ "items": [{ "product_id": "x", "quantity": 1 }] }), "/items/0/product_id"),
        (json!({ "items": [{ "product_id": product, "quantity": "1" }] }), "/items/0/quantity"),
        (json!({ "items": [], "customer_id": Uuid::nil() }), "/customer_id"),
    ] {
        let refused = customer.post_with_key("/v1/orders", "k", &body).await;
        let problem = refused.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn an_order_is_its_owners() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(50, 100).await;
    let (ada, bob) = (fleet.client.register().await, fleet.client.register().await);
    let placed = ada.place_order("k", &[(product, 1)]).await.expect(201);
    let path = format!("/v1/orders/{}", placed["id"].as_str().unwrap());
    let missing = format!("/v1/orders/{}", Uuid::now_v7());
    for path in [path.clone(), format!("{path}/events"), missing] {
        bob.get(&path).await.expect_problem(404, "not_found");
    }
    bob.post(&format!("{path}/cancel"), &json!({})).await.expect_problem(404, "not_found");
    assert_eq!(bob.get("/v1/orders").await.expect(200)["data"], json!([]));
    bob.anonymous().get(&path).await.expect_problem(401, "unauthorized");
    for step in ["ship", "complete"] {
        let reply = ada.post(&format!("{path}/{step}"), &json!({})).await;
        reply.expect_problem(403, "forbidden");
    }
    assert_eq!(admin.get(&path).await.expect(200)["id"], placed["id"]);
    assert_eq!(admin.get("/v1/orders").await.expect(200)["data"][0]["id"], placed["id"]);
}

#[tokio::test]
async fn cancelling_returns_the_stock_once() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(50, 100).await;
    let customer = fleet.client.register().await;
    let placed = customer.place_order("k", &[(product, 7)]).await.expect(201);
    let path = format!("/v1/orders/{}", placed["id"].as_str().unwrap());
    assert_eq!(admin.stock(product).await, 43);
    let first = customer.post(&format!("{path}/cancel"), &json!({})).await.expect(200);
    assert_eq!(first["status"], "cancelled");
    let second = customer.post(&format!("{path}/cancel"), &json!({})).await.expect(200);
    assert_eq!(first, second);
    assert_eq!(admin.stock(product).await, 50);
}

#[tokio::test]
async fn cancelling_at_once_from_everywhere_returns_the_stock_once() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(50, 100).await;
    let customer = fleet.client.register().await;
    let placed = customer.place_order("k", &[(product, 7)]).await.expect(201);
    let path = format!("/v1/orders/{}/cancel", placed["id"].as_str().unwrap());
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (customer, path) = (customer.clone(), path.clone());
        requests.spawn(async move { customer.post(&path, &json!({})).await });
    }
    for reply in requests.join_all().await {
        assert_eq!(reply.expect(200)["status"], "cancelled");
    }
    assert_eq!(admin.stock(product).await, 50);
    let cancelled = "select count(*) from events where type = 'order.cancelled'";
    assert_eq!(fleet.database.number(cancelled).await, 1);
}

#[tokio::test]
async fn goes_its_way_and_leaves_a_trail() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(50, 100).await;
    let customer = fleet.client.register().await;
    let placed = customer.place_order("k", &[(product, 1)]).await.expect(201);
    let id: Uuid = placed["id"].as_str().unwrap().parse().unwrap();
    let path = format!("/v1/orders/{id}");
    let step = async |name: &str| admin.post(&format!("{path}/{name}"), &json!({})).await;
    for early in ["ship", "complete"] {
        step(early).await.expect_problem(409, "illegal_move");
    }
    shoal::domain::orders::mark_paid(fleet.app(), id).await.unwrap();
    assert_eq!(step("ship").await.expect(200)["status"], "shipped");
    let cancel = customer.post(&format!("{path}/cancel"), &json!({})).await;
    cancel.expect_problem(409, "illegal_move");
    assert_eq!(step("complete").await.expect(200)["status"], "completed");

    let read = customer.get(&path).await;
    assert_eq!(read.header("etag"), "\"4\"");
    let trail = customer.get(&format!("{path}/events")).await.expect(200);
    let steps: Vec<_> = trail["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["sequence"].as_i64().unwrap(), event["type"].as_str().unwrap()))
        .collect();
    assert_eq!(
        steps,
        [(1, "order.created"), (2, "order.paid"), (3, "order.shipped"), (4, "order.completed")]
    );
    assert_eq!(trail["data"][0]["data"]["items"][0]["product_id"], json!(product));
    let first = customer.get(&format!("{path}/events?limit=3")).await.expect(200);
    let rest = format!("{path}/events?cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(customer.get(&rest).await.expect(200)["data"][0]["type"], "order.completed");
}

#[tokio::test]
async fn lists_by_status_and_page() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(50, 100).await;
    let customer = fleet.client.register().await;
    let mut placed = Vec::new();
    for key in 0..5 {
        let order = customer.place_order(&key.to_string(), &[(product, 1)]).await.expect(201);
        placed.insert(0, order["id"].clone());
    }
    let cancel = format!("/v1/orders/{}/cancel", placed[2].as_str().unwrap());
    customer.post(&cancel, &json!({})).await.expect(200);
    let ids = |page: &serde_json::Value| -> Vec<serde_json::Value> {
        page["data"].as_array().unwrap().iter().map(|order| order["id"].clone()).collect()
    };
    let cancelled = customer.get("/v1/orders?status=cancelled").await.expect(200);
    assert_eq!(ids(&cancelled), placed[2..3]);
    let mut seen = Vec::new();
    let mut path = "/v1/orders?limit=2".to_owned();
    loop {
        let reply = customer.get(&path).await;
        let page = reply.expect(200);
        seen.extend(ids(&page));
        if page["has_more"] == false {
            assert_eq!(reply.header("link"), "");
            break;
        }
        let link = reply.header("link").to_owned();
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
        assert!(path.contains(page["next_cursor"].as_str().unwrap()));
    }
    assert_eq!(seen, placed);
}

#[tokio::test]
async fn nobody_can_rewrite_the_trail() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    fleet.client.register().await.place_order("k", &[(product, 1)]).await.expect(201);
    let mut connection = fleet.database.connect().await;
    let tables: Vec<String> =
        sqlx::query_scalar("select relid::text from pg_partition_tree('events') order by 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(tables.len() > 4, "{tables:?}");
    // As the role that the API has.
    for table in tables {
        for statement in ["delete from", "truncate"] {
            let mut conn = fleet.app().db.primary().await.unwrap();
            let statement = sqlx::AssertSqlSafe(format!("{statement} {table}"));
            let refused = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
            // 42501: insufficient privilege.
            assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42501");
        }
    }
}
