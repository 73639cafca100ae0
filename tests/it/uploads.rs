//! Uploads in two steps: what is taken, what is not, and that what was verified stays what it is.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::support::{Client, File, Fleet, Reply, metric_of, objects};

const PAGE: &[u8] = b"<html><script>alert(1)</script></html>";

#[tokio::test]
async fn a_file_goes_straight_to_s3_and_comes_back() {
    let fleet = Fleet::of(2).start().await;
    let customer = fleet.client.register().await;
    let files = [File::png(60, 40), File::jpeg(60, 40), File::webp(60, 40), File::pdf()];
    for file in files {
        let announced = customer.post("/v1/uploads", &file.announcement("document")).await;
        let upload = announced.expect(201);
        assert_eq!(announced.header("location"), format!("/v1/uploads/{}", id(&upload)));
        assert_eq!(upload["state"], "pending");
        assert_eq!(customer.state_of(&upload).await["state"], "pending");
        customer.send(&upload, &file.bytes).await.expect_text(200);
        let completed = customer.complete(&upload).await.expect(200);
        assert_eq!(completed["state"], "completed");
        let found = customer.state_of(&upload).await;
        if file.content_type != "application/pdf" {
            assert_eq!((&found["width"], &found["height"]), (&json!(60), &json!(40)));
        }
        let saved = customer.fetch(found["download"]["url"].as_str().unwrap()).await;
        assert_eq!((saved.status, &saved.body), (200, &file.bytes));
        assert_eq!(saved.header("content-type"), file.content_type);
        assert!(saved.header("content-disposition").starts_with("attachment"), "{saved:?}");
    }
    assert_eq!(objects(&fleet.database.name, "incoming"), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_before_it_is_sent() {
    let fleet = Fleet::of(1).set("SHOAL_UPLOAD_MAX_BYTES", "1000").start().await;
    let customer = fleet.client.register().await;
    let announce = async |content_type: &str, size: i64, purpose: &str| {
        let body = json!({ "content_type": content_type, "size": size, "purpose": purpose });
        customer.post("/v1/uploads", &body).await
    };
    announce("image/png", 1_000, "avatar").await.expect(201);
    for (content_type, size, purpose, pointer) in [
        ("image/png", 1_001, "avatar", "/size"),
        ("image/png", 0, "avatar", "/size"),
        ("image/png", -1, "avatar", "/size"),
        ("text/html", 10, "document", "/content_type"),
        ("image/svg+xml", 10, "avatar", "/content_type"),
        ("application/pdf", 10, "avatar", "/content_type"),
        ("image/png", 10, "favourite", "/purpose"),
    ] {
        let problem = announce(content_type, size, purpose).await;
        let problem = problem.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    announce("image/png", 10, "product_image").await.expect_problem(403, "forbidden");
    let mut body = File::png(1, 1).announcement("avatar");
    body["checksum_sha256"] = "xyz".into();
    customer.post("/v1/uploads", &body).await.expect_problem(422, "validation_failed");
    customer.anonymous().post("/v1/uploads", &body).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn s3_takes_only_what_was_announced() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let file = File::png(30, 30);
    let mut body = file.announcement("avatar");
    body["checksum_sha256"] = hex(&file.bytes).into();
    let upload = customer.post("/v1/uploads", &body).await.expect(201);
    let mut other = file.bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(customer.send(&upload, &other).await.status, 400);
    let without_checksum = customer.announce(&file, "avatar").await;
    let longer = [&file.bytes[..], b"."].concat();
    for bytes in [&longer[..], &file.bytes[1..]] {
        assert_eq!(customer.send(&without_checksum, bytes).await.status, 403);
    }
    let mut as_page = upload.clone();
    as_page["upload"]["headers"]["content-type"] = "text/html".into();
    assert_eq!(customer.send(&as_page, &file.bytes).await.status, 403);
    customer.send(&upload, &file.bytes).await.expect_text(200);
    customer.complete(&upload).await.expect(200);
}

/// Whatever the S3 server has let pass: the bytes themselves are looked at.
#[tokio::test]
async fn what_is_not_what_it_was_announced_as_is_rejected() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let png = File::png(64, 64);
    let cut = &png.bytes[..png.bytes.len() / 2];
    let more_behind = [&png.bytes[..], b"another file"].concat();
    let mut page_inside = png.bytes.clone();
    page_inside.splice(33..33, chunk(*b"tEXt", &[b"Comment\0", PAGE].concat()));
    for (file, reason) in [
        (png.with(PAGE), "file_type_unknown"),
        (png.with(File::jpeg(9, 9).bytes), "file_type_mismatch"),
        (png.with(cut), "file_damaged"),
        (png.with(more_behind), "file_has_trailing_bytes"),
        (png.with(page_inside), "file_holds_markup"),
        (png.with(bomb(60_000, 60_000)), "too_many_pixels"),
        // 25 million pixels are fewer than may be, but there are none.
        (png.with(bomb(5_000, 5_000)), "file_damaged"),
    ] {
        let upload = customer.announce(&file, "avatar").await;
        customer.send(&upload, &file.bytes).await.expect_text(200);
        let refused = customer.complete(&upload).await;
        let problem = refused.expect_problem(422, "upload_rejected");
        let state = customer.state_of(&upload).await;
        assert_eq!((&state["state"], &state["reason"]), (&json!("rejected"), &json!(reason)));
        assert_eq!(state["detail"], problem["detail"]);
        assert!(state.get("download").is_none(), "{state}");
        // It stays so.
        customer.complete(&upload).await.expect_problem(422, "upload_rejected");
    }
    assert!(objects(&fleet.database.name, "pictures").is_empty());
}

/// By somebody who writes to the bucket with its owner's key: the lab's server has no other way.
#[tokio::test]
async fn size_and_checksum_are_verified_by_ourselves() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let (file, other) = (File::png(40, 40), File::png(41, 41));
    let bodies = [
        (json!(null), other.bytes.clone(), "size_mismatch"),
        (hex(&other.bytes).into(), file.bytes.clone(), "checksum_mismatch"),
    ];
    for (checksum, bytes, reason) in bodies {
        let mut body = file.announcement("document");
        body["checksum_sha256"] = checksum;
        let upload = customer.post("/v1/uploads", &body).await.expect(201);
        let key = format!("incoming/{}", id(&upload));
        let put = shoal::platform::storage::NewObject { key: &key, content_type: "image/png" };
        fleet.app().storage.put(&put, bytes.into()).await.unwrap();
        customer.complete(&upload).await.expect_problem(422, "upload_rejected");
        assert_eq!(customer.state_of(&upload).await["reason"], reason);
    }
}

#[tokio::test]
async fn completing_before_the_file_was_sent_says_so_and_spoils_nothing() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let file = File::png(20, 20);
    let upload = customer.announce(&file, "avatar").await;
    customer.complete(&upload).await.expect_problem(409, "upload_not_received");
    customer.send(&upload, &file.bytes).await.expect_text(200);
    customer.complete(&upload).await.expect(200);
}

#[tokio::test]
async fn nobody_sees_completes_or_deletes_the_upload_of_another() {
    let fleet = Fleet::one().await;
    let (owner, other) = (fleet.client.register().await, fleet.client.register().await);
    let file = File::png(20, 20);
    let upload = owner.announce(&file, "avatar").await;
    owner.send(&upload, &file.bytes).await.expect_text(200);
    let path = format!("/v1/uploads/{}", id(&upload));
    for stranger in [&other, &fleet.admin().await] {
        stranger.get(&path).await.expect_problem(404, "not_found");
        stranger.complete(&upload).await.expect_problem(404, "not_found");
        stranger.delete(&path).await.expect_problem(404, "not_found");
    }
    owner.complete(&upload).await.expect(200);
    let body = json!({ "upload_id": upload["id"] });
    put(&other, "/v1/users/me/avatar", &body).await.expect_problem(422, "validation_failed");
}

#[tokio::test]
async fn completing_twice_or_at_once_has_one_effect() {
    let fleet = Fleet::of(2).start().await;
    let customer = fleet.client.register().await;
    let file = File::png(50, 50);
    let upload = customer.announce(&file, "avatar").await;
    customer.send(&upload, &file.bytes).await.expect_text(200);
    let mut rush = JoinSet::new();
    for _ in 0..6 {
        let (customer, upload) = (customer.clone(), upload.clone());
        rush.spawn(async move { customer.complete(&upload).await });
    }
    let mut answers = rush.join_all().await;
    // Whoever comes when all is done finds no file any more, and needs none.
    answers.push(customer.complete(&upload).await);
    // One who began before, and read after, the first one's end may be told that nothing is there:
    // it asks again.
    answers.retain(|answer| answer.status != 409);
    assert!(answers.len() >= 2);
    for answer in &answers {
        assert_eq!(answer.expect(200), answers[0].json());
    }
    let jobs = "select count(*) from jobs where kind = 'uploads.make_variants'";
    assert_eq!(fleet.database.number(jobs).await, 1);
    let completed = "uploads_total{outcome=\"completed\",purpose=\"avatar\"}";
    let times: f64 = fleet.replicas.iter().map(|replica| metric_of(replica, completed)).sum();
    assert_eq!(times, 1.0);
    assert_eq!(objects(&fleet.database.name, "pictures").len(), 1);
}

#[tokio::test]
async fn a_key_repeats_the_answers_of_both_steps() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let file = File::png(20, 20);
    let announce =
        async || customer.post_with_key("/v1/uploads", "k", &file.announcement("avatar")).await;
    let (first, second) = (announce().await, announce().await);
    let upload = first.expect(201);
    assert_eq!(second.expect(201), upload);
    assert_eq!(second.header("idempotency-replayed"), "true");
    customer.send(&upload, &file.bytes).await.expect_text(200);
    let path = format!("/v1/uploads/{}/complete", id(&upload));
    let complete = async || customer.post_with_key(&path, "c", &json!({})).await;
    let (first, second) = (complete().await, complete().await);
    assert_eq!(first.expect(200), second.expect(200));
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(fleet.database.number("select count(*) from uploads").await, 1);
}

#[tokio::test]
async fn the_address_used_again_after_completion_changes_nothing() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let file = File::png(50, 50);
    let upload = customer.announce(&file, "avatar").await;
    customer.send(&upload, &file.bytes).await.expect_text(200);
    customer.complete(&upload).await.expect(200);
    let mut page = PAGE.to_vec();
    page.resize(file.bytes.len(), b' ');
    customer.send(&upload, &page).await.expect_text(200);
    customer.complete(&upload).await.expect(200);
    let found = customer.state_of(&upload).await;
    let saved = customer.fetch(found["download"]["url"].as_str().unwrap()).await;
    assert_eq!((saved.status, saved.body), (200, file.bytes));
    assert_eq!(saved.headers["content-type"], "image/png");
}

#[tokio::test]
async fn a_quota_holds_against_many_at_once() {
    let fleet = Fleet::of(2)
        .set("SHOAL_UPLOAD_QUOTA_BYTES", "10000")
        .set("SHOAL_UPLOAD_QUOTA_FILES", "5")
        .start()
        .await;
    let rush = async |customer: &Client, size: i64| {
        let mut rush = JoinSet::new();
        for _ in 0..20 {
            let customer = customer.clone();
            let body = json!({
                "content_type": "image/png", "size": size, "purpose": "document",
            });
            rush.spawn(async move { customer.post("/v1/uploads", &body).await });
        }
        let answers: Vec<Reply> = rush.join_all().await;
        for refused in answers.iter().filter(|answer| answer.status != 201) {
            refused.expect_problem(409, "upload_quota_exceeded");
        }
        answers.into_iter().filter(|answer| answer.status == 201).map(|answer| answer.json())
    };
    let (by_files, by_bytes) = (fleet.client.register().await, fleet.client.register().await);
    assert_eq!(rush(&by_files, 10).await.count(), 5);
    let mut kept: Vec<Value> = rush(&by_bytes, 4_000).await.collect();
    assert_eq!(kept.len(), 2);
    // What is given up makes room.
    let given_up = kept.pop().unwrap();
    let path = format!("/v1/uploads/{}", id(&given_up));
    by_bytes.delete(&path).await.expect(204);
    by_bytes.get(&path).await.expect_problem(404, "not_found");
    by_bytes.complete(&given_up).await.expect_problem(404, "not_found");
    assert_eq!(rush(&by_bytes, 4_000).await.count(), 1);
}

#[tokio::test]
async fn what_is_late_is_expired_and_counts_no_longer() {
    let fleet = Fleet::of(1).set("SHOAL_UPLOAD_QUOTA_FILES", "1").start().await;
    let customer = fleet.client.register().await;
    let file = File::png(20, 20);
    let upload = customer.announce(&file, "avatar").await;
    customer.send(&upload, &file.bytes).await.expect_text(200);
    let body = file.announcement("avatar");
    customer.post("/v1/uploads", &body).await.expect_problem(409, "upload_quota_exceeded");
    let late = "update uploads set expires_at = now() - interval '16 minutes'";
    sqlx::query(late).execute(&mut fleet.database.connect().await).await.unwrap();
    customer.complete(&upload).await.expect_problem(409, "upload_expired");
    fleet.database.replicated().await;
    assert_eq!(customer.state_of(&upload).await["state"], "expired");
    customer.announce(&file, "avatar").await;
}

fn id(upload: &Value) -> &str {
    upload["id"].as_str().unwrap()
}

async fn put(client: &Client, path: &str, body: &Value) -> Reply {
    Reply::of(client.request(reqwest::Method::PUT, path).json(body)).await
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A PNG that says that it has so many pixels, and has next to none.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut bytes = File::png(1, 1).bytes;
    bytes.splice(8..33, chunk(*b"IHDR", &header));
    bytes
}

/// A PNG's chunk with its checksum.
fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let checked = [&kind, data].concat();
    let crc = !checked.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    });
    [&u32::try_from(data.len()).unwrap().to_be_bytes(), &checked[..], &crc.to_be_bytes()].concat()
}
