//! The catalogue as everybody reads it: order, pages, search, and the caches.

use std::{collections::HashSet, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

use crate::support::{Client, Fleet, Reply, unique, until};

/// Products by SQL, since fifty requests prove no more: prices repeat, so that ties are broken.
async fn fill(fleet: &Fleet, count: usize) {
    let insert = format!(
        "with made as (
            insert into products (id, sku, name, description, unit_amount, currency, availability)
            select overlay(gen_random_uuid()::text placing left(uuid_at(now())::text, 13)
                from 1)::uuid, 'S' || n, 'Thing ' || n, 'Bulk.', (n * 7) % 10, 'EUR', 'in_stock'
            from generate_series(1, {count}) n returning id
        ) insert into inventory (product_id, on_hand) select id, 100 from made"
    );
    fleet.database.connect().await.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
    fleet.database.replicated().await;
}

/// All pages from `path` on, by the `Link` of each; `between` runs after every page.
async fn walk(client: &Client, path: &str, mut between: impl AsyncFnMut()) -> Vec<Value> {
    let mut path = path.to_owned();
    let mut seen = Vec::new();
    loop {
        let reply = client.get(&path).await;
        let page = reply.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().cloned());
        if page["has_more"] == false {
            assert_eq!((reply.header("link"), page.get("next_cursor")), ("", None));
            return seen;
        }
        let link = reply.header("link");
        let target = link.strip_prefix('<').and_then(|link| link.split_once('>'));
        let (next, rest) = target.unwrap_or_else(|| panic!("no link: {link}"));
        assert_eq!(rest, "; rel=\"next\"");
        assert!(next.contains(page["next_cursor"].as_str().unwrap()), "{next}");
        path = next.to_owned();
        between().await;
    }
}

fn ids(products: &[Value]) -> Vec<&str> {
    products.iter().map(|product| product["id"].as_str().unwrap()).collect()
}

/// What each order promises of neighbours: (amount, id), or the id alone.
fn is_sorted(products: &[Value], sort: &str) -> bool {
    let key = |product: &Value| {
        let amount = product["unit_amount"].as_i64().unwrap();
        let id: Uuid = product["id"].as_str().unwrap().parse().unwrap();
        (if sort.ends_with("unit_amount") { amount } else { 0 }, id)
    };
    products.is_sorted_by(
        |a, b| {
            if sort.starts_with('-') { key(a) > key(b) } else { key(a) < key(b) }
        },
    )
}

const SORTS: [&str; 4] = ["created_at", "-created_at", "unit_amount", "-unit_amount"];

#[tokio::test]
async fn every_order_is_paged_without_gaps_or_doubles() {
    let fleet = Fleet::of(2).start().await;
    fill(&fleet, 53).await;
    for sort in SORTS {
        for limit in [1, 7, 53, 100] {
            let path = format!("/v1/products?sort={sort}&limit={limit}");
            let all = walk(&fleet.client, &path, async || {}).await;
            assert_eq!(ids(&all).into_iter().collect::<HashSet<_>>().len(), 53, "{path}");
            assert_eq!(all.len(), 53, "{path}");
            assert!(is_sorted(&all, sort), "{path}");
        }
    }
    let first = fleet.client.get("/v1/products").await.expect(200);
    assert_eq!(first["data"].as_array().unwrap().len(), 20);
    assert!(is_sorted(first["data"].as_array().unwrap(), "-created_at"), "newest first");
    let searched =
        walk(&fleet.client, "/v1/products?q=thing&limit=9&sort=-unit_amount", async || {});
    let searched = searched.await;
    assert_eq!((searched.len(), is_sorted(&searched, "-unit_amount")), (53, true));
}

#[tokio::test]
async fn products_that_come_meanwhile_neither_hide_nor_double_others() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    for sort in SORTS {
        fleet.database.connect().await.execute("truncate products cascade").await.unwrap();
        fill(&fleet, 30).await;
        let before = "select array_agg(id::text) from products";
        let mut connection = fleet.database.connect().await;
        let before: Vec<String> =
            sqlx::query_scalar(before).fetch_one(&mut connection).await.unwrap();
        let path = format!("/v1/products?sort={sort}&limit=4");
        let mut amount = 0;
        let seen = walk(&fleet.client, &path, async || {
            amount = (amount + 3) % 10;
            // Few enough for the walk to end, which runs away from them in one order.
            if amount != 0 {
                admin.create_product(5, amount).await;
            }
        })
        .await;
        let seen_ids = ids(&seen);
        let distinct: HashSet<&str> = seen_ids.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len(), "{sort}: a product came twice");
        for id in &before {
            assert!(distinct.contains(id.as_str()), "{sort}: {id} is missing");
        }
        assert!(is_sorted(&seen, sort), "{sort}");
    }
}

#[tokio::test]
async fn a_cursor_belongs_to_its_order() {
    let fleet = Fleet::one().await;
    fill(&fleet, 3).await;
    let page = fleet.client.get("/v1/products?sort=unit_amount&limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let path = format!("/v1/products?limit=1&cursor={cursor}");
    let refused = fleet.client.get(&path).await;
    let problem = refused.expect_problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["pointer"], "?cursor");
    fleet.client.get(&format!("{path}&sort=unit_amount")).await.expect(200);
}

#[tokio::test]
async fn finds_words_phrases_and_their_absence() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    for (sku, name, description) in [
        ("HOOK-1", "Brass hook", "For one coat."),
        ("HOOK-2", "Steel hook", "For a heavy coat, not brass."),
        ("CAFE", "Kaffeemühle Größe 2", "Mahlt fein."),
    ] {
        let body = json!({ "sku": sku, "name": name, "description": description,
            "unit_amount": 1, "currency": "EUR" });
        admin.post("/v1/products", &body).await.expect(201);
    }
    fleet.database.replicated().await;
    for (q, expected) in [
        ("hook", vec!["HOOK-1", "HOOK-2"]),
        ("HOOK", vec!["HOOK-1", "HOOK-2"]),
        ("steel coat", vec!["HOOK-2"]),
        ("\"brass hook\"", vec!["HOOK-1"]),
        ("\"hook brass\"", vec![]),
        ("brass -steel", vec!["HOOK-1"]),
        ("steel or mühle", vec!["HOOK-2"]),
        ("kaffeemühle", vec!["CAFE"]),
        ("hook-2", vec!["HOOK-2"]),
        // Operators of the query language and of SQL are words like any other.
        ("'; drop table products; --", vec![]),
        ("hook & | ! ( ) <-> :* \\", vec!["HOOK-1", "HOOK-2"]),
        ("\"hook", vec!["HOOK-1", "HOOK-2"]),
        ("%", vec![]),
        ("-", vec![]),
    ] {
        let q = percent_encoding::utf8_percent_encode(q, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/v1/products?sort=created_at&q={q}");
        let page = fleet.client.get(&path).await.expect(200);
        let found: Vec<_> =
            page["data"].as_array().unwrap().iter().map(|p| p["sku"].as_str().unwrap()).collect();
        assert_eq!(found, expected, "{q}");
    }
}

#[tokio::test]
async fn says_how_long_it_may_be_kept_and_whether_it_was() {
    let fleet = Fleet::of(2).start().await;
    let product = fleet.admin().await.create_product(5, 100).await;
    for path in ["/v1/products?limit=3".to_owned(), format!("/v1/products/{product}")] {
        let first = fleet.client.get(&path).await;
        let second = fleet.client.get(&path).await;
        assert_eq!(first.header("cache-status"), "shoal; fwd=miss", "{path}");
        assert_eq!(second.header("cache-status"), "shoal; hit", "{path}");
        assert_eq!(first.body, second.body);
        for header in ["etag", "link", "content-type"] {
            assert_eq!(first.header(header), second.header(header), "{header}");
        }
        let policy = "public, max-age=5, stale-while-revalidate=30";
        assert_eq!(
            (first.header("cache-control"), second.header("cache-control")),
            (policy, policy)
        );
    }
    let missing = fleet.client.get(&format!("/v1/products/{}", Uuid::now_v7())).await;
    assert_eq!(missing.header("cache-control"), "no-store");
}

#[tokio::test]
async fn what_is_asked_for_again_comes_from_the_process_until_it_changes() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(5, 100).await;
    let near = "shoal; hit; detail=near";
    for path in ["/v1/products?limit=3".to_owned(), format!("/v1/products/{product}")] {
        until(async || fleet.client.get(&path).await.header("cache-status") == near).await;
        let name = unique("Changed");
        let body = json!({ "name": name });
        admin.patch(&format!("/v1/products/{product}"), &body).await.expect(200);
        let reply = fleet.client.get(&path).await;
        assert!(String::from_utf8_lossy(&reply.body).contains(&name), "{path}");
    }
}

#[tokio::test]
async fn a_change_is_seen_by_the_next_read_on_every_replica() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(5, 100).await;
    let path = format!("/v1/products/{product}");
    for turn in 0..5 {
        for replica in 0..3 {
            fleet.only(replica).get(&path).await.expect(200);
        }
        let name = format!("Turn {turn}");
        let changed = admin.patch(&path, &json!({ "name": name })).await;
        changed.expect(200);
        for replica in 0..3 {
            // Whoever was told of the change sees it, and so does everybody a moment later.
            let request = fleet.only(replica).request(Method::GET, &path);
            let told = request.header("consistency-token", changed.header("consistency-token"));
            assert_eq!(Reply::of(told).await.expect(200)["name"], name);
            until(async || fleet.only(replica).get(&path).await.expect(200)["name"] == name).await;
        }
    }
    admin.delete(&path).await;
    for replica in 0..3 {
        until(async || fleet.only(replica).get(&path).await.status == 404).await;
    }
}

#[tokio::test]
async fn without_redis_the_catalogue_is_read_from_the_database() {
    let mut fleet = Fleet::of(2).own_redis().set("SHOAL_REDIS_TIMEOUT_MS", "200").start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(5, 100).await;
    let path = format!("/v1/products/{product}");
    fleet.client.get(&path).await.expect(200);
    fleet.redis.as_mut().unwrap().process().stop();
    let changed = admin.patch(&path, &json!({ "name": "Changed" })).await;
    changed.expect(200);
    // Redis may come back with the old entry: until its life is over, whoever holds the token is
    // to be answered by no cache.
    let uncached_until = changed.header("consistency-token").split('.').nth(1).unwrap();
    assert_ne!(uncached_until, "0");
    fleet.database.replicated().await;
    for _ in 0..6 {
        let reply = fleet.client.get(&path).await;
        assert_eq!(reply.expect(200)["name"], "Changed");
        assert_eq!(reply.header("cache-status"), "shoal; fwd=bypass");
        let list = fleet.client.get("/v1/products?q=thing").await.expect(200);
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
    }
    tokio::time::timeout(Duration::from_secs(60), async {
        fleet.redis.as_mut().unwrap().process().restart().unwrap();
        // It came back empty; the breaker looks again by itself.
        while !fleet.client.get(&path).await.header("cache-status").starts_with("shoal; hit") {}
    })
    .await
    .expect("the cache is used again");
    assert_eq!(fleet.client.get(&path).await.expect(200)["name"], "Changed");
}
