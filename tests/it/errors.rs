//! Bad input: what is wrong with it is told as a problem document, quickly, and never as a 500.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, Fleet, Reply};

/// Largest JSON body, in bytes.
const MAX_BODY: usize = 64 * 1024;

async fn post_raw(client: &Client, path: &str, content_type: &str, body: &[u8]) -> Reply {
    let request = client.request(Method::POST, path).header("content-type", content_type);
    Reply::of(request.body(body.to_vec())).await
}

async fn post_json(client: &Client, path: &str, body: &[u8]) -> Reply {
    post_raw(client, path, "application/json", body).await
}

#[tokio::test]
async fn what_is_no_json_is_malformed() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let bodies: [&[u8]; 15] = [
        b"{",
        b"{\"sku\":",
        b"{\"sku\":\"A\",}",
        b"{\"sku\":\"A\"} x",
        b"{} {}",
        b"{'sku':'A'}",
        b"nothing",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"{\"name\":\"\xc3\x28\"}",
        b"{\"name\":\"a\0b\"}",
        b"{\"name\":\"\\ud800\"}",
        b"{\"name\":\"a\nb\"}",
        b"{\"unit_amount\":1e999}",
        b"{\"unit_amount\":NaN}",
    ];
    for path in ["/v1/products", "/v1/auth/login"] {
        for body in bodies {
            let refused = post_json(&admin, path, body).await;
            refused.expect_problem(400, "malformed_json");
        }
    }
    post_json(&admin, "/v1/auth/login", b"").await.expect_problem(400, "malformed_json");
}

#[tokio::test]
async fn a_field_that_is_wrong_is_pointed_at() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let good = json!({ "sku": "A", "name": "A", "description": "A", "unit_amount": 1,
        "currency": "EUR", "stock": 5 });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        (body, format!("/{field}"))
    };
    for (body, pointer) in [
        with("name", json!("a\0b")),
        with("name", json!("\u{1b}[31m")),
        with("name", json!("")),
        with("name", json!("x".repeat(201))),
        with("name", json!(null)),
        with("name", json!(["A"])),
        with("sku", json!("x".repeat(65))),
        with("sku", json!(1)),
        with("sku", json!("\u{202e}")),
        with("description", json!("x".repeat(4_001))),
        with("unit_amount", json!("1")),
        with("unit_amount", json!(1.5)),
        with("unit_amount", json!(-1)),
        with("unit_amount", json!(u64::MAX)),
        with("unit_amount", json!(1e300)),
        with("currency", json!("euro")),
        with("stock", json!(-1)),
        with("stock", json!(i64::MAX)),
        with("colour", json!("red")),
        with("a/b~c", json!(1)),
    ] {
        let refused = admin.post("/v1/products", &body).await;
        let problem = refused.expect_problem(422, "validation_failed");
        let pointer = if pointer == "/a/b~c" { "/a~1b~0c" } else { &pointer };
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        for text in ["code", "detail"] {
            assert!(problem["errors"][0][text].as_str().is_some_and(|text| !text.is_empty()));
        }
    }
    for body in [json!(null), json!([]), json!("text"), json!(1), json!({ "sku": "A" })] {
        let refused = admin.post("/v1/products", &body).await;
        refused.expect_problem(422, "validation_failed");
    }
    let twice = br#"{"sku":"A","sku":"B","name":"A","description":"A"}"#;
    post_json(&admin, "/v1/products", twice).await.expect_problem(422, "validation_failed");
    assert_eq!(fleet.database.number("select count(*) from products").await, 0);
    admin.post("/v1/products", &good).await.expect(201);
}

#[tokio::test]
async fn a_body_is_bounded_in_size_and_depth() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    for bracket in ["[", "{\"a\":"] {
        for levels in [33, 12_000, 100_000] {
            let bomb = bracket.repeat(levels);
            let refused = post_json(&admin, "/v1/products", bomb.as_bytes()).await;
            if bomb.len() > MAX_BODY {
                refused.expect_problem(413, "body_too_large");
            } else {
                refused.expect_problem(400, "json_too_deep");
            }
        }
    }
    let padded = |length: usize| {
        let body = br#"{"sku":"A","name":"A","description":"A","unit_amount":1,"currency":"EUR"}"#;
        let mut body = body.to_vec();
        body.resize(length, b' ');
        body
    };
    let refused = post_json(&admin, "/v1/products", &padded(MAX_BODY + 1)).await;
    refused.expect_problem(413, "body_too_large");
    post_json(&admin, "/v1/products", &padded(MAX_BODY)).await.expect(201);
}

#[tokio::test]
async fn a_body_says_that_it_is_json() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let body = br#"{"email":"a@shoal.test","password":"x"}"#;
    for path in ["/v1/auth/login", "/v1/products", "/v1/orders"] {
        for wrong in ["", "text/plain", "application/x-www-form-urlencoded", "json", "a/b; json"] {
            let refused = post_raw(&admin, path, wrong, body).await;
            refused.expect_problem(415, "unsupported_media_type");
        }
        let none = admin.request(Method::POST, path).body(body.to_vec());
        Reply::of(none).await.expect_problem(415, "unsupported_media_type");
    }
    let right = "Application/JSON; charset=utf-8";
    post_raw(&admin, "/v1/auth/login", right, body).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn an_idempotency_key_is_short_and_visible() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let long = "k".repeat(300);
    for key in [long.as_str(), "", "\"\"", "a\tb", "schlüssel"] {
        let refused = customer.post_with_key("/v1/orders", key, &json!({ "items": [] })).await;
        refused.expect_problem(400, "idempotency_key_invalid");
    }
    let long = "k".repeat(255);
    let accepted = customer.post_with_key("/v1/orders", &long, &json!({ "items": [] })).await;
    accepted.expect_problem(422, "validation_failed");
}

#[tokio::test]
async fn addresses_and_heads_are_bounded() {
    let fleet = Fleet::one().await;
    let long = |length: usize| format!("{:y<length$}", "/v1/products?x=");
    fleet.client.get(&long(4_096)).await.expect(200);
    for length in [4_097, 20_000] {
        fleet.client.get(&long(length)).await.expect_problem(414, "uri_too_long");
    }
    let with_header = async |length: usize| {
        let request = fleet.client.request(Method::GET, "/v1/products");
        Reply::of(request.header("x-large", "y".repeat(length))).await
    };
    with_header(15_000).await.expect(200);
    for length in [16_384, 40_000] {
        with_header(length).await.expect_problem(431, "headers_too_large");
    }
    let many = (0..90).fold(fleet.client.request(Method::GET, "/v1/products"), |request, index| {
        request.header(format!("x-{index}"), "y".repeat(200))
    });
    Reply::of(many).await.expect_problem(431, "headers_too_large");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    for path in [
        "/v1",
        "/v1/nothing",
        "/v1/products/",
        "/v2/products",
        "//",
        "/%00",
        "/%ff",
        "/docs/nothing.js",
        "/docs/..%2fCargo.toml",
        "/docs/..%5cCargo.toml",
    ] {
        admin.get(path).await.expect_problem(404, "not_found");
        if !path.starts_with("/docs") {
            admin.post(path, &json!({})).await.expect_problem(404, "not_found");
        }
    }
    let nobody = Uuid::now_v7();
    for id in ["1", "x", "%00", "%ff", "null", &"9".repeat(300), &format!("{nobody}x")] {
        for path in ["/v1/products/ID", "/v1/products/ID/stock", "/v1/orders/ID", "/v1/users/ID"] {
            let path = path.replace("ID", id);
            admin.get(&path).await.expect_problem(404, "not_found");
        }
        let delete = format!("/v1/products/{id}");
        admin.delete(&delete).await.expect_problem(404, "not_found");
    }
    for path in ["/v1/products/ID", "/v1/products/ID/stock", "/v1/orders/ID", "/v1/users/ID"] {
        let path = path.replace("ID", &nobody.to_string());
        admin.get(&path).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn another_method_is_told_which_are_allowed() {
    let fleet = Fleet::one().await;
    for (method, path, allowed) in [
        ("PUT", "/v1/products", vec!["GET", "HEAD", "POST"]),
        ("POST", "/v1/users/me", vec!["GET", "HEAD", "PATCH"]),
        ("GET", "/v1/auth/login", vec!["POST"]),
        ("TRACE", "/v1/auth/login", vec!["POST"]),
        ("BREW", "/health/live", vec!["GET", "HEAD"]),
        ("POST", "/metrics", vec!["GET", "HEAD"]),
        ("DELETE", "/openapi.json", vec!["GET", "HEAD"]),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let reply = Reply::of(fleet.client.request(method, path)).await;
        reply.expect_problem(405, "method_not_allowed");
        let mut told: Vec<_> = reply.header("allow").split(',').map(str::trim).collect();
        told.sort_unstable();
        assert_eq!(told, allowed, "{path}");
    }
}

#[tokio::test]
async fn parameters_of_lists_are_checked() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let lists = ["/v1/products", "/v1/orders", "/v1/users"];
    for list in lists {
        for limit in ["0", "101", "-1", "abc", "", "1.5", "99999999999999999999", "1%00"] {
            let refused = admin.get(&format!("{list}?limit={limit}")).await;
            refused.expect_problem(422, "validation_failed");
        }
        for limit in [1, 100] {
            admin.get(&format!("{list}?limit={limit}")).await.expect(200);
        }
        // Base64 of nothing, of JSON that is no position, of no JSON; no base64.
        for cursor in ["", "bnVsbA", "WzEsMiwzXQ", "eHh4", "%%%", "a b", "%00", "%ff", "='--"] {
            let refused = admin.get(&format!("{list}?cursor={cursor}")).await;
            let problem = refused.expect_problem(422, "validation_failed");
            assert_eq!(problem["errors"].as_array().map(Vec::len), Some(1), "{cursor}: {problem}");
        }
    }
    for (path, status) in [
        ("/v1/products?q=%00", 422),
        ("/v1/products?q=a%00b", 422),
        ("/v1/products?q=%ff", 200),
        ("/v1/products?q=", 422),
        ("/v1/products?sort=price", 422),
        ("/v1/products?sort=id;drop%20table%20products", 422),
        ("/v1/orders?status=lost", 422),
        ("/v1/orders?status=%00", 422),
        ("/v1/users?email=nobody", 422),
        ("/v1/users?email=%00@a.b", 422),
        ("/v1/products?q=a&q=b", 422),
        ("/v1/products?utm_source=letter", 200),
    ] {
        let reply = admin.get(path).await;
        assert_eq!(reply.status, status, "{path}: {}", String::from_utf8_lossy(&reply.body));
        if status == 422 {
            reply.expect_problem(422, "validation_failed");
        }
    }
}
