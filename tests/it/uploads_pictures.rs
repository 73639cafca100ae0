//! Uploads that become the picture of a user or product.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    payments::until_idle,
    support::{Client, File, Fleet, Reply, objects, until},
};

const AVATAR: &str = "/v1/users/me/avatar";

async fn put(client: &Client, path: &str, upload_id: Uuid) -> Reply {
    let request = client.request(Method::PUT, path);
    Reply::of(request.json(&json!({ "upload_id": upload_id }))).await
}

fn image_of(product: Uuid) -> String {
    format!("/v1/products/{product}/image")
}

async fn events(fleet: &Fleet, kind: &str) -> Vec<Value> {
    let events = "select data from events where type = $1 order by id";
    let mut connection = fleet.database.connect().await;
    sqlx::query_scalar(events).bind(kind).fetch_all(&mut connection).await.unwrap()
}

#[tokio::test]
async fn an_avatar_is_seen_by_everybody_and_the_one_before_goes() {
    let fleet = Fleet::of(2).start().await;
    let customer = fleet.client.register().await;
    let (first, second) = (File::png(80, 80), File::jpeg(80, 80));
    let first_id = customer.upload(&first, "avatar").await;
    let set = put(&customer, AVATAR, first_id).await;
    let user = set.expect(200);
    assert_eq!(user["avatar_url"], format!("/v1/files/{first_id}"));
    let me = customer.get("/v1/users/me").await;
    assert_eq!(me.expect(200), user);
    assert_eq!(me.header("etag"), set.header("etag"));
    let url = user["avatar_url"].as_str().unwrap();
    let found = fleet.client.get(url).await;
    assert_eq!((found.status, found.header("cache-control")), (302, "public, max-age=300"));
    let shown = customer.fetch(found.header("location")).await;
    assert_eq!((shown.status, shown.body), (200, first.bytes));
    assert!(shown.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));

    let second_id = customer.upload(&second, "avatar").await;
    put(&customer, AVATAR, second_id).await.expect(200);
    let old = format!("/v1/uploads/{first_id}");
    customer.get(&old).await.expect_problem(404, "not_found");
    put(&customer, AVATAR, first_id).await.expect_problem(422, "validation_failed");
    let in_use = customer.delete(&format!("/v1/uploads/{second_id}")).await;
    in_use.expect_problem(409, "upload_in_use");
    customer.delete(AVATAR).await.expect(204);
    assert_eq!(customer.get("/v1/users/me").await.expect(200)["avatar_url"], Value::Null);
    let told: Vec<Value> = events(&fleet, "user.avatar_changed")
        .await
        .iter()
        .map(|e| e["avatar_url"].clone())
        .collect();
    let url = |id: Uuid| json!(format!("/v1/files/{id}"));
    assert_eq!(told, [url(first_id), url(second_id), Value::Null]);
}

#[tokio::test]
async fn a_products_picture_is_seen_on_every_replica_at_once() {
    let fleet = Fleet::of(2).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(1, 100).await;
    let path = format!("/v1/products/{product}");
    let image = async |replica: usize| {
        let client = admin.with_addresses(vec![fleet.replicas[replica].address]);
        client.get(&path).await.expect(200)["image_url"].clone()
    };
    for round in 0..3 {
        // Both hold it in their caches.
        for replica in 0..2 {
            image(replica).await;
        }
        let id = admin.upload(&File::webp(90, 60 + round), "product_image").await;
        let set = put(&admin, &image_of(product), id).await.expect(200);
        for replica in 0..2 {
            assert_eq!(image(replica).await, set["image_url"]);
        }
        assert_eq!(set["image_url"], format!("/v1/files/{id}"));
    }
    admin.delete(&image_of(product)).await.expect(204);
    for replica in 0..2 {
        assert_eq!(image(replica).await, Value::Null);
    }
    assert_eq!(events(&fleet, "product.image_changed").await.len(), 4);
}

#[tokio::test]
async fn only_a_finished_upload_of_ones_own_for_the_purpose_becomes_a_picture() {
    let fleet = Fleet::one().await;
    let (admin, customer) = (fleet.admin().await, fleet.client.register().await);
    let products = [admin.create_product(1, 100).await, admin.create_product(1, 100).await];
    let image = admin.upload(&File::png(9, 9), "product_image").await;
    let document = admin.upload(&File::png(9, 9), "document").await;
    let pending = admin.announce(&File::png(9, 9), "product_image").await["id"].clone();
    let pending = pending.as_str().unwrap().parse().unwrap();
    let others = fleet.admin().await.upload(&File::png(9, 9), "product_image").await;
    for (path, id) in [
        (image_of(products[0]), document),
        (image_of(products[0]), pending),
        (image_of(products[0]), others),
        (image_of(products[0]), Uuid::now_v7()),
        (AVATAR.to_owned(), image),
    ] {
        put(&admin, &path, id).await.expect_problem(422, "validation_failed");
    }
    put(&customer, &image_of(products[0]), image).await.expect_problem(403, "forbidden");
    put(&admin, &image_of(Uuid::now_v7()), image).await.expect_problem(404, "not_found");
    let stale = admin.request(Method::PUT, &image_of(products[0])).header("if-match", "\"7\"");
    let stale = Reply::of(stale.json(&json!({ "upload_id": image }))).await;
    stale.expect_problem(412, "precondition_failed");
    put(&admin, &image_of(products[0]), image).await.expect(200);
    put(&admin, &image_of(products[0]), image).await.expect(200);
    put(&admin, &image_of(products[1]), image).await.expect_problem(422, "validation_failed");
    let shown = fleet.client.get(&format!("/v1/files/{image}")).await;
    assert_eq!(shown.status, 302);
    for hidden in [document, pending, others] {
        let answer = fleet.client.get(&format!("/v1/files/{hidden}")).await;
        answer.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn of_pictures_set_at_once_one_stays() {
    let fleet = Fleet::of(2).start().await;
    let customer = fleet.client.register().await;
    let mut uploads = Vec::new();
    for _ in 0..6 {
        uploads.push(customer.upload(&File::png(9, 9), "avatar").await);
    }
    let mut rush = JoinSet::new();
    for id in uploads {
        let customer = customer.clone();
        rush.spawn(async move { put(&customer, AVATAR, id).await.expect(200) });
    }
    rush.join_all().await;
    let kept = "select id::text from uploads where released_at is null";
    let mut connection = fleet.database.connect().await;
    let kept: Vec<String> = sqlx::query_scalar(kept).fetch_all(&mut connection).await.unwrap();
    let me = customer.get("/v1/users/me").await.expect(200);
    let shown = me["avatar_url"].as_str().unwrap().trim_start_matches("/v1/files/");
    assert_eq!(kept, [shown]);
}

#[tokio::test]
async fn smaller_copies_are_made_and_never_larger_ones() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let customer = fleet.client.register().await;
    let id = customer.upload(&File::jpeg(600, 300), "avatar").await;
    let user = put(&customer, AVATAR, id).await.expect(200);
    let path = format!("/v1/uploads/{id}");
    let mut upload = Value::Null;
    until(async || {
        upload = customer.get(&path).await.expect(200);
        upload["download"]["variants"].as_array().is_some_and(|variants| variants.len() == 2)
    })
    .await;
    for (index, (edge, width, height)) in [(256, 256, 128), (1024, 600, 300)].iter().enumerate() {
        let url = format!("{}-{edge}.webp", user["avatar_url"].as_str().unwrap());
        let location = fleet.client.get(&url).await.header("location").to_owned();
        for url in [location.as_str(), upload["download"]["variants"][index].as_str().unwrap()] {
            let small = customer.fetch(url).await;
            assert_eq!((small.status, small.header("content-type")), (200, "image/webp"));
            let picture = image::load_from_memory(&small.body).unwrap();
            assert_eq!((picture.width(), picture.height()), (*width, *height));
        }
    }
    let unknown = format!("{}-300.webp", user["avatar_url"].as_str().unwrap());
    fleet.client.get(&unknown).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn with_a_cdn_pictures_are_there_and_documents_are_not() {
    let fleet = Fleet::of(1).set("SHOAL_CDN_URL", "https://cdn.example/files/").start().await;
    let customer = fleet.client.register().await;
    let id = customer.upload(&File::png(9, 9), "avatar").await;
    let user = put(&customer, AVATAR, id).await.expect(200);
    let url = user["avatar_url"].as_str().unwrap();
    assert!(url.starts_with("https://cdn.example/files/pictures/"), "{url}");
    assert!(url.ends_with(&id.to_string()), "{url}");
    let key = url.trim_start_matches("https://cdn.example/files/");
    assert_eq!(objects(&fleet.database.name, key).len(), 1);
    let upload = customer.get(&format!("/v1/uploads/{id}")).await.expect(200);
    assert_eq!(upload["download"], json!({ "url": url }));
    assert_eq!(fleet.client.get(&format!("/v1/files/{id}")).await.header("location"), url);
    let document = customer.upload(&File::pdf(), "document").await;
    let document = customer.get(&format!("/v1/uploads/{document}")).await.expect(200);
    let url = document["download"]["url"].as_str().unwrap();
    assert!(url.starts_with("http://127.0.0.1"), "{url}");
    assert!(document["download"]["expires_at"].is_string());
}

#[tokio::test]
async fn an_archived_product_lets_go_of_its_picture_but_not_of_a_later_one() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(1, 100).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(admin.upload(&File::png(9, 9), "product_image").await);
    }
    put(&admin, &image_of(product), ids[0]).await.expect(200);
    let nothing = json!({});
    admin.post("/v1/admin/queues/uploads/pause", &nothing).await.expect(200);
    admin.delete(&format!("/v1/products/{product}")).await.expect(204);
    // As an import does that brings it back.
    let back = "update products set archived_at = null, version = version + 1";
    sqlx::query(back).execute(&mut fleet.database.connect().await).await.unwrap();
    // It comes back without a picture.
    let image_url = "select count(*) from products where image_url is null";
    assert_eq!(fleet.database.number(image_url).await, 1);
    put(&admin, &image_of(product), ids[1]).await.expect(200);
    let released = "update uploads set released_at = null";
    // As if only the job had to let go of the first one.
    sqlx::query(released).execute(&mut fleet.database.connect().await).await.unwrap();
    admin.post("/v1/admin/queues/uploads/resume", &nothing).await.expect(200);
    let kept = "select count(*) from uploads where released_at is null";
    until(async || fleet.database.number(kept).await == 1).await;
    until_idle(&fleet.database).await;
    admin.get(&format!("/v1/uploads/{}", ids[0])).await.expect_problem(404, "not_found");
    admin.get(&format!("/v1/uploads/{}", ids[1])).await.expect(200);
}
