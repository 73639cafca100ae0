//! Products as administrators keep them, and their stock.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Client, Fleet, Reply, unique};

fn hook() -> Value {
    json!({ "sku": unique("SKU"), "name": "Hook", "description": "Holds a coat.",
        "unit_amount": 199, "currency": "EUR", "stock": 50 })
}

fn path(product: &Value) -> String {
    format!("/v1/products/{}", product["id"].as_str().unwrap())
}

/// A change with precondition; `None` deletes.
async fn change_if(admin: &Client, path: &str, tag: &str, change: Option<Value>) -> Reply {
    let method = if change.is_some() { Method::PATCH } else { Method::DELETE };
    let request = admin.request(method, path).header("if-match", tag);
    Reply::of(match change {
        Some(change) => request.json(&change),
        None => request,
    })
    .await
}

async fn adjust(admin: &Client, product: Uuid, delta: i64) -> Reply {
    admin.post(&format!("/v1/products/{product}/stock"), &json!({ "delta": delta })).await
}

#[tokio::test]
async fn a_product_is_created_read_changed_and_archived() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let given = hook();
    let created = admin.post("/v1/products", &given).await;
    let product = created.expect(201);
    for field in ["sku", "name", "description", "unit_amount", "currency"] {
        assert_eq!(product[field], given[field], "{field}");
    }
    assert_eq!((&product["availability"], &product["version"]), (&json!("in_stock"), &json!(1)));
    assert_eq!((&product["image_url"], &product.get("stock")), (&Value::Null, &None));
    assert_eq!(created.header("location"), path(&product));
    assert_eq!(created.header("etag"), "\"1\"");

    let path = path(&product);
    let read = fleet.client.get(&path).await;
    assert_eq!((read.expect(200), read.header("etag")), (product.clone(), "\"1\""));

    let changed = admin.patch(&path, &json!({ "name": "Peg" })).await;
    let expected = (json!("Peg"), given["sku"].clone(), json!(199), json!(2));
    let body = changed.expect(200);
    let got = ["name", "sku", "unit_amount", "version"].map(|field| body[field].clone());
    assert_eq!(got, <[Value; 4]>::from(expected), "what is absent stays");
    assert_eq!(changed.header("etag"), "\"2\"");
    assert_eq!(fleet.client.get(&path).await.expect(200), body);

    let immutable = admin.patch(&path, &json!({ "currency": "GBP" })).await;
    let problem = immutable.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["pointer"], "/currency");

    let deleted = admin.delete(&path).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    for reply in [
        fleet.client.get(&path).await,
        admin.delete(&path).await,
        admin.patch(&path, &json!({ "name": "Again" })).await,
        admin.get(&format!("{path}/stock")).await,
        admin.post(&format!("{path}/stock"), &json!({ "delta": 1 })).await,
    ] {
        reply.expect_problem(404, "not_found");
    }
    let trail = fleet.database.number(
        "select count(*) from events where (type, sequence) in
            (('product.created', 1), ('product.updated', 2), ('product.archived', 3))",
    );
    assert_eq!(trail.await, 3);
}

#[tokio::test]
async fn a_change_can_be_tied_to_the_version_that_was_seen() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let path = path(&admin.post("/v1/products", &hook()).await.expect(201));
    admin.patch(&path, &json!({ "name": "Second" })).await.expect(200);
    for stale in ["\"1\"", "\"3\"", "W/\"2\"", "2", "\"x\"", ""] {
        let refused = change_if(&admin, &path, stale, Some(json!({ "name": "Third" }))).await;
        refused.expect_problem(412, "precondition_failed");
        let refused = change_if(&admin, &path, stale, None).await;
        refused.expect_problem(412, "precondition_failed");
    }
    assert_eq!(fleet.client.get(&path).await.expect(200)["name"], "Second");
    for (tag, name) in [("\"2\"", "Third"), ("\"1\", \"3\"", "Fourth"), ("*", "Fifth")] {
        let changed = change_if(&admin, &path, tag, Some(json!({ "name": name }))).await;
        assert_eq!(changed.expect(200)["name"], name);
    }
    assert_eq!(change_if(&admin, &path, "\"5\"", None).await.status, 204);
}

#[tokio::test]
async fn of_changes_to_one_version_at_once_one_is_made() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let path = path(&admin.post("/v1/products", &hook()).await.expect(201));
    let mut changes = JoinSet::new();
    for name in 0..20 {
        let (admin, path) = (admin.clone(), path.clone());
        let change = json!({ "name": name.to_string() });
        changes.spawn(async move { change_if(&admin, &path, "\"1\"", Some(change)).await });
    }
    let replies = changes.join_all().await;
    let (made, refused): (Vec<Reply>, Vec<Reply>) =
        replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(made.len(), 1);
    for reply in refused {
        reply.expect_problem(412, "precondition_failed");
    }
    assert_eq!(fleet.client.get(&path).await.expect(200), made[0].json());
}

#[tokio::test]
async fn a_copy_that_is_current_is_not_sent_again() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let path = path(&admin.post("/v1/products", &hook()).await.expect(201));
    let ask = async |tags: &str| {
        Reply::of(fleet.client.request(Method::GET, &path).header("if-none-match", tags)).await
    };
    for current in ["\"1\"", "W/\"1\"", "\"0\", \"1\"", "*"] {
        let reply = ask(current).await;
        assert_eq!((reply.status, reply.body.len(), reply.header("etag")), (304, 0, "\"1\""));
    }
    for other in ["\"2\"", "1", ""] {
        ask(other).await.expect(200);
    }
    admin.patch(&path, &json!({ "name": "Peg" })).await.expect(200);
    assert_eq!(ask("\"1\"").await.expect(200)["name"], "Peg");
}

#[tokio::test]
async fn a_sku_belongs_to_one_product() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let mut creations = JoinSet::new();
    let body = hook();
    for _ in 0..10 {
        let (admin, body) = (admin.clone(), body.clone());
        creations.spawn(async move { admin.post("/v1/products", &body).await });
    }
    let replies = creations.join_all().await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        reply.expect_problem(409, "sku_taken");
    }
    let other = path(&admin.post("/v1/products", &hook()).await.expect(201));
    let taken = admin.patch(&other, &json!({ "sku": body["sku"] })).await;
    taken.expect_problem(409, "sku_taken");
    assert_eq!(fleet.database.number("select count(*) from inventory").await, 2);
}

#[tokio::test]
async fn an_archived_product_stays_on_old_orders() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(20, 100).await;
    let kept = admin.create_product(20, 100).await;
    let customer = fleet.client.register().await;
    let order = customer.place_order("k", &[(product, 2)]).await.expect(201);
    assert_eq!(admin.delete(&format!("/v1/products/{product}")).await.status, 204);
    fleet.database.replicated().await;
    let catalogue = fleet.client.get("/v1/products").await.expect(200);
    let listed: Vec<_> = catalogue["data"].as_array().unwrap().iter().map(|p| &p["id"]).collect();
    assert_eq!(listed, [&json!(kept)]);
    let order_path = format!("/v1/orders/{}", order["id"].as_str().unwrap());
    assert_eq!(customer.get(&order_path).await.expect(200), order);
    // Its units go back all the same.
    customer.post(&format!("{order_path}/cancel"), &json!({})).await.expect(200);
    let units = "select on_hand from inventory i join products p on p.id = i.product_id
        where p.archived_at is not null";
    assert_eq!(fleet.database.number(units).await, 20);
}

#[tokio::test]
async fn the_stock_is_exact_and_never_negative() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(100, 100).await;
    let stock = admin.get(&format!("/v1/products/{product}/stock")).await;
    assert_eq!(stock.expect(200), json!({ "product_id": product, "stock": 100 }));
    assert_eq!(stock.header("cache-control"), "no-store");
    assert_eq!(adjust(&admin, product, -40).await.expect(200)["stock"], 60);
    assert_eq!(adjust(&admin, product, 0).await.expect(200)["stock"], 60);
    adjust(&admin, product, -61).await.expect_problem(409, "insufficient_stock");
    assert_eq!(admin.stock(product).await, 60);

    let mut taking = JoinSet::new();
    for _ in 0..30 {
        let admin = admin.clone();
        taking.spawn(async move { adjust(&admin, product, -7).await });
    }
    let replies = taking.join_all().await;
    let taken = replies.iter().filter(|reply| reply.status == 200).count();
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        reply.expect_problem(409, "insufficient_stock");
    }
    assert_eq!(taken, 8, "60 is 8 times 7, and 4");
    assert_eq!(admin.stock(product).await, 4);
}

#[tokio::test]
async fn the_catalogue_shows_which_threshold_the_stock_is_below() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(12, 100).await;
    let path = format!("/v1/products/{product}");
    let mut version = 1;
    for (delta, availability) in [
        (-1, "in_stock"),
        (-1, "low"),
        (-9, "low"),
        (-1, "out_of_stock"),
        (1, "low"),
        (9, "low"),
        (1, "in_stock"),
        (1_000, "in_stock"),
        (-1_011, "out_of_stock"),
        (11, "in_stock"),
    ] {
        let before = fleet.client.get(&path).await.expect(200)["availability"].clone();
        adjust(&admin, product, delta).await.expect(200);
        version += i32::from(before != availability);
        let reply = fleet.client.get(&path).await;
        let read = reply.expect(200);
        assert_eq!(read["availability"], availability, "after {delta}");
        assert_eq!(reply.header("etag"), format!("\"{version}\""), "after {delta}");
    }
}

#[tokio::test]
async fn a_sale_touches_the_product_only_when_it_crosses_a_threshold() {
    let fleet = Fleet::of(2).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(20, 100).await;
    let path = format!("/v1/products/{product}");
    let customer = fleet.client.register().await;
    fleet.client.get(&path).await.expect(200);
    let cached = async || {
        let reply = fleet.client.get(&path).await;
        let status = reply.header("cache-status").split("; detail").next().unwrap().to_owned();
        (reply.expect(200)["availability"].clone(), reply.header("etag").to_owned(), status)
    };
    for (key, quantity) in [("a", 3), ("b", 6)] {
        customer.place_order(key, &[(product, quantity)]).await.expect(201);
        assert_eq!(cached().await, (json!("in_stock"), "\"1\"".into(), "shoal; hit".into()));
    }
    let crossing = customer.place_order("c", &[(product, 1)]).await.expect(201);
    assert_eq!(cached().await, (json!("low"), "\"2\"".into(), "shoal; fwd=miss".into()));
    let cancel = format!("/v1/orders/{}/cancel", crossing["id"].as_str().unwrap());
    customer.post(&cancel, &json!({})).await.expect(200);
    let (availability, etag, _) = cached().await;
    assert_eq!((availability, etag.as_str()), (json!("in_stock"), "\"3\""));
    let changes = "select count(*) from events where type = 'product.availability_changed'";
    assert_eq!(fleet.database.number(changes).await, 2);
}

#[tokio::test]
async fn only_administrators_keep_products() {
    let fleet = Fleet::one().await;
    let product = fleet.admin().await.create_product(20, 100).await;
    let customer = fleet.client.register().await;
    let path = format!("/v1/products/{product}");
    for (client, status, code) in
        [(&customer, 403, "forbidden"), (&fleet.client, 401, "unauthorized")]
    {
        for reply in [
            client.post("/v1/products", &hook()).await,
            client.patch(&path, &json!({ "name": "Mine" })).await,
            client.delete(&path).await,
            client.get(&format!("{path}/stock")).await,
            adjust(client, product, 5).await,
        ] {
            reply.expect_problem(status, code);
        }
        client.get(&path).await.expect(200);
    }
}
