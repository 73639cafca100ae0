//! What nobody needs any longer goes away, and nothing else.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use lab::fault::{Fault, FaultProxy};
use reqwest::Method;
use serde_json::json;
use shoal::domain::uploads::{Swept, sweep, sweep_orphans};
use sqlx::AssertSqlSafe;

use crate::support::{File, Fleet, Reply, objects, topology};

const UPLOADS: &str = "select count(*) from uploads";

async fn execute(fleet: &Fleet, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::query(sql).execute(&mut fleet.database.connect().await).await.unwrap();
}

fn count(fleet: &Fleet, prefix: &str) -> usize {
    objects(&fleet.database.name, prefix).len()
}

fn swept(uploads: usize, incoming: usize) -> Swept {
    Swept { uploads, incoming, parts: 0 }
}

#[tokio::test]
async fn what_is_not_waited_for_is_deleted_and_what_is_stays() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let file = File::png(20, 20);
    let mut sent = Vec::new();
    for _ in 0..3 {
        let upload = customer.announce(&file, "avatar").await;
        customer.send(&upload, &file.bytes).await.expect_text(200);
        sent.push(upload);
    }
    // One is completed, and its address used again.
    customer.complete(&sent[0]).await.expect(200);
    customer.send(&sent[0], &file.bytes).await.expect_text(200);
    // One is too late, the other is still waited for.
    let late = sent[1]["id"].as_str().unwrap();
    let expire = "update uploads set expires_at = now() - interval '16 minutes' where id = ";
    execute(&fleet, &format!("{expire} '{late}'")).await;
    assert_eq!(count(&fleet, "incoming"), 3);
    assert_eq!(sweep(fleet.app()).await.unwrap(), swept(0, 2));
    assert_eq!(count(&fleet, "incoming"), 1);
    assert_eq!(count(&fleet, "pictures"), 1);
    customer.complete(&sent[2]).await.expect(200);
    assert_eq!(fleet.database.number(UPLOADS).await, 3);
    // A day later nobody asks any more what became of it.
    execute(&fleet, "update uploads set expires_at = now() - interval '25 hours'").await;
    assert_eq!(sweep(fleet.app()).await.unwrap(), swept(1, 0));
    assert_eq!(sweep(fleet.app()).await.unwrap(), swept(0, 0));
    assert_eq!(count(&fleet, "pictures"), 2);
}

#[tokio::test]
async fn what_was_let_go_of_is_freed_a_little_later() {
    let fleet = Fleet::one().await;
    let (admin, customer) = (fleet.admin().await, fleet.client.register().await);
    let kept = customer.upload(&File::png(20, 20), "avatar").await;
    let put = customer.request(Method::PUT, "/v1/users/me/avatar");
    Reply::of(put.json(&json!({ "upload_id": kept }))).await.expect(200);
    let product = admin.create_product(1, 100).await;
    let image = admin.upload(&File::png(20, 20), "product_image").await;
    let put = admin.request(Method::PUT, &format!("/v1/products/{product}/image"));
    Reply::of(put.json(&json!({ "upload_id": image }))).await.expect(200);
    admin.delete(&format!("/v1/products/{product}/image")).await.expect(204);
    // Pages that were made before still show it.
    assert_eq!(sweep(fleet.app()).await.unwrap(), swept(0, 0));
    assert_eq!(customer.get(&format!("/v1/files/{image}")).await.status, 302);
    execute(&fleet, "update uploads set released_at = released_at - interval '11 minutes'").await;
    // Smaller copies go with it.
    let original = objects(&fleet.database.name, "pictures");
    let original = original.iter().find(|path| path.ends_with(image.to_string())).unwrap();
    for edge in [256, 1024] {
        fs::write(format!("{}-{edge}.webp", original.display()), b"webp").unwrap();
    }
    assert_eq!(count(&fleet, "pictures"), 4);
    assert_eq!(sweep(fleet.app()).await.unwrap(), swept(1, 0));
    assert_eq!(count(&fleet, "pictures"), 1);
    assert_eq!(fleet.database.number(UPLOADS).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_forgotten_while_s3_is_away() {
    let (_, port) = topology().s3.endpoint.rsplit_once(':').unwrap();
    let way = FaultProxy::before(port.parse().unwrap()).unwrap();
    let endpoint = format!("http://127.0.0.1:{}", way.port());
    let fleet = Fleet::of(1).set("S3_ENDPOINT", &endpoint).start().await;
    let customer = fleet.client.register().await;
    let id = customer.upload(&File::png(20, 20), "avatar").await;
    customer.delete(&format!("/v1/uploads/{id}")).await.expect(204);
    execute(&fleet, "update uploads set released_at = released_at - interval '11 minutes'").await;
    way.set(Fault::Down).unwrap();
    sweep(fleet.app()).await.unwrap_err();
    assert_eq!(fleet.database.number(UPLOADS).await, 1);
    way.clear().unwrap();
    crate::support::until(async || sweep(fleet.app()).await.is_ok()).await;
    assert_eq!((fleet.database.number(UPLOADS).await, count(&fleet, "pictures")), (0, 0));
}

#[tokio::test]
async fn objects_that_no_upload_tells_of_are_found_by_listing() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    customer.upload(&File::png(20, 20), "avatar").await;
    customer.upload(&File::pdf(), "document").await;
    let old = SystemTime::now() - Duration::from_secs(2 * 60 * 60);
    let age = |path: &Path| {
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    };
    for (index, path) in
        [objects(&fleet.database.name, "pictures"), objects(&fleet.database.name, "documents")]
            .concat()
            .iter()
            .enumerate()
    {
        age(path);
        // Of a process that died before it could tell the database, and of one that still may.
        for name in [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()] {
            fs::write(path.with_file_name(name.to_string()), b"stray").unwrap();
            if index == 0 {
                age(&path.with_file_name(name.to_string()));
            }
        }
        // What somebody else keeps there is not ours to judge.
        fs::write(path.with_file_name("readme"), b"keep").unwrap();
        age(&path.with_file_name("readme"));
    }
    assert_eq!((count(&fleet, "pictures"), count(&fleet, "documents")), (4, 4));
    assert_eq!(sweep_orphans(fleet.app()).await.unwrap(), 2);
    assert_eq!((count(&fleet, "pictures"), count(&fleet, "documents")), (2, 4));
    assert_eq!(sweep_orphans(fleet.app()).await.unwrap(), 0);
}
