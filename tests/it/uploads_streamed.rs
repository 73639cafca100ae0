//! Pictures that come with the request that sets them: whatever becomes of the client or of S3, all
//! of it is kept or nothing.

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header;
use lab::fault::{Fault, FaultProxy};
use reqwest::{
    Body, Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use shoal::platform::storage::{BodySize, NewObject, Storage};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Bucket, Client, File, Fleet, FleetBuilder, Reply, until};

const AVATAR: &str = "/v1/users/me/avatar";
const MIB: usize = 1 << 20;
/// Uploads that still count.
const UPLOADS: &str = "select count(*) from uploads where released_at is null";

/// A fleet with a bucket of its own, whose parts can be looked at.
fn with(bucket: &Bucket, fleet: FleetBuilder) -> FleetBuilder {
    fleet.set("S3_ENDPOINT", &bucket.endpoint())
}

async fn put(client: &Client, path: &str, content_type: &str, body: impl Into<Body>) -> Reply {
    let request = client.request(Method::PUT, path);
    Reply::of(request.header(header::CONTENT_TYPE, content_type).body(body)).await
}

async fn put_form(client: &Client, form: Form) -> Reply {
    Reply::of(client.request(Method::PUT, AVATAR).multipart(form)).await
}

fn part(file: &File) -> Part {
    let part = Part::bytes(file.bytes.clone()).file_name("me");
    part.mime_str(file.content_type).unwrap()
}

/// The bytes that a picture's address leads to.
async fn shown(client: &Client, url: &Value) -> Reply {
    let found = client.get(url.as_str().unwrap()).await;
    found.expect_text(302);
    client.fetch(found.header("location")).await
}

#[tokio::test]
async fn a_picture_is_taken_raw_as_a_form_and_by_its_upload() {
    let fleet = Fleet::of(2).start().await;
    let customer = fleet.client.register().await;
    let (raw, form, uploaded) = (File::png(60, 40), File::jpeg(50, 30), File::webp(40, 20));

    let reply = put(&customer, AVATAR, raw.content_type, raw.bytes.clone()).await;
    let user = reply.expect(200);
    assert_eq!(reply.header("etag"), customer.get("/v1/users/me").await.header("etag"));
    let saved = shown(&customer, &user["avatar_url"]).await;
    assert_eq!((saved.status, &saved.body), (200, &raw.bytes));
    assert_eq!(saved.header("content-type"), "image/png");
    assert!(saved.header("content-disposition").starts_with("attachment"));

    let user = put_form(&customer, Form::new().part("file", part(&form))).await.expect(200);
    assert_eq!(shown(&customer, &user["avatar_url"]).await.body, form.bytes);

    let id = customer.upload(&uploaded, "avatar").await;
    let reply = customer.request(Method::PUT, AVATAR).json(&json!({ "upload_id": id }));
    let user = Reply::of(reply).await.expect(200);
    assert_eq!(shown(&customer, &user["avatar_url"]).await.body, uploaded.bytes);

    // Of the three only the last still counts, and nobody's picture is deleted twice.
    assert_eq!(fleet.database.number(UPLOADS).await, 1);
    customer.delete(AVATAR).await.expect(204);
    assert_eq!(customer.get("/v1/users/me").await.json()["avatar_url"], Value::Null);
    assert_eq!(fleet.database.number(UPLOADS).await, 0);
    let events = "select count(*) from events where type = 'user.avatar_changed'";
    assert_eq!(fleet.database.number(events).await, 4);
}

#[tokio::test]
async fn what_is_no_picture_is_refused_and_leaves_nothing() {
    let bucket = Bucket::start();
    let fleet = with(&bucket, Fleet::of(1)).start().await;
    let customer = fleet.client.register().await;
    let (png, pdf) = (File::png(60, 40), File::pdf());
    let cut = &png.bytes[..png.bytes.len() / 2];
    let page = [&png.bytes[..], b"<script>alert(1)</script>"].concat();
    for (content_type, bytes, status, code) in [
        ("", png.bytes.clone(), 415, "unsupported_media_type"),
        ("text/html", png.bytes.clone(), 415, "unsupported_media_type"),
        (pdf.content_type, pdf.bytes.clone(), 415, "unsupported_media_type"),
        ("image/png", Vec::new(), 400, "empty_body"),
        ("image/png", pdf.bytes.clone(), 422, "upload_rejected"),
        ("image/jpeg", png.bytes.clone(), 422, "upload_rejected"),
        ("image/png", cut.to_vec(), 422, "upload_rejected"),
        ("image/png", page, 422, "upload_rejected"),
        ("multipart/form-data", png.bytes.clone(), 400, "malformed_form"),
        ("multipart/form-data; boundary=x", png.bytes.clone(), 400, "incomplete_body"),
    ] {
        let reply = put(&customer, AVATAR, content_type, bytes).await;
        reply.expect_problem(status, code);
    }
    let two = Form::new().part("file", part(&png)).part("more", part(&png));
    put_form(&customer, two).await.expect_problem(422, "validation_failed");
    let none = put(&customer, AVATAR, "multipart/form-data; boundary=x", "--x--\r\n").await;
    none.expect_problem(422, "validation_failed");
    put_form(&customer, Form::new().text("file", "text"))
        .await
        .expect_problem(415, "unsupported_media_type");
    put(&customer.anonymous(), AVATAR, "image/png", png.bytes.clone())
        .await
        .expect_problem(401, "unauthorized");

    assert_eq!(customer.get("/v1/users/me").await.json()["avatar_url"], Value::Null);
    assert_eq!(fleet.database.number(UPLOADS).await, 0);
    assert_eq!(bucket.objects(), [""; 0]);
}

#[tokio::test]
async fn a_change_that_is_not_made_keeps_no_file() {
    let bucket = Bucket::start();
    let fleet = with(&bucket, Fleet::of(1)).start().await;
    let (customer, admin) = (fleet.client.register().await, fleet.admin().await);
    let png = File::png(60, 40);
    let put_if = async |client: &Client, path: &str| {
        let request = client.request(Method::PUT, path).header(header::IF_MATCH, "\"7\"");
        Reply::of(request.header(header::CONTENT_TYPE, "image/png").body(png.bytes.clone())).await
    };
    put_if(&customer, AVATAR).await.expect_problem(412, "precondition_failed");
    let product = admin.create_product(1, 100).await;
    let image = format!("/v1/products/{product}/image");
    put_if(&admin, &image).await.expect_problem(412, "precondition_failed");
    put_if(&customer, &image).await.expect_problem(403, "forbidden");
    let unknown = format!("/v1/products/{}/image", uuid::Uuid::now_v7());
    put(&admin, &unknown, "image/png", png.bytes.clone()).await.expect_problem(404, "not_found");
    assert_eq!(fleet.database.number(UPLOADS).await, 0);
    assert_eq!(bucket.objects(), [""; 0]);
}

/// Announced or not, raw or in a form.
#[tokio::test]
async fn what_is_too_large_is_refused_and_leaves_nothing() {
    let bucket = Bucket::start();
    let fleet = with(&bucket, Fleet::of(1)).start().await;
    let customer = fleet.client.register().await;
    let file = Bytes::from(vec![0x55; 11 * MIB]);
    let frames = || {
        let frames: Vec<_> = file.chunks(64 * 1024).map(|frame| file.slice_ref(frame)).collect();
        Body::wrap_stream(stream::iter(frames.into_iter().map(Ok::<_, std::io::Error>)))
    };
    let announced = put(&customer, AVATAR, "image/png", file.clone()).await;
    announced.expect_problem(413, "file_too_large");
    put(&customer, AVATAR, "image/png", frames()).await.expect_problem(413, "file_too_large");
    let whole = Form::new().part("file", Part::bytes(file.to_vec()).mime_str("image/png").unwrap());
    put_form(&customer, whole).await.expect_problem(413, "file_too_large");
    let streamed = Form::new().part("file", Part::stream(frames()).mime_str("image/png").unwrap());
    put_form(&customer, streamed).await.expect_problem(413, "file_too_large");
    // Just as large as it may be, but no picture.
    let most = file.slice(..10 * MIB);
    put(&customer, AVATAR, "image/png", most).await.expect_problem(422, "upload_rejected");

    until(async || bucket.parts().is_empty()).await;
    assert_eq!(bucket.objects(), [""; 0]);
    assert_eq!(fleet.database.number(UPLOADS).await, 0);
}

/// A connection on which `sent` bytes of a picture of 10 MiB have gone out.
async fn begin(fleet: &Fleet, customer: &Client, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(fleet.replicas[0].address).await.unwrap();
    let head = format!(
        "PUT {AVATAR} HTTP/1.1\r\nhost: shoal.test\r\nauthorization: Bearer {}\r\n\
         content-type: image/png\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        customer.token(),
        10 * MIB
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0x55; sent]).await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_hangs_up_half_way_leaves_nothing() {
    let bucket = Bucket::start();
    let fleet = with(&bucket, Fleet::of(1)).start().await;
    let customer = fleet.client.register().await;
    let stream = begin(&fleet, &customer, 7 * MIB).await;
    until(async || !bucket.parts().is_empty()).await;
    drop(stream);
    until(async || bucket.parts().is_empty()).await;
    until(async || fleet.database.number(UPLOADS).await == 0).await;
    assert_eq!(bucket.objects(), [""; 0]);
}

/// As that of a request is at the end of its deadline. At whatever moment: while the upload in parts is
/// begun, while a part is on its way, or between two.
#[tokio::test]
async fn a_body_that_nobody_waits_for_any_more_leaves_no_part() {
    let bucket = Bucket::start();
    let fleet = with(&bucket, Fleet::of(1)).start().await;
    let app = fleet.app();
    let (storage, tasks): (&Storage, _) = (&app.storage, &app.tasks);
    for moment in ["upload-", "upload_id-", "part-2"] {
        let frames = stream::repeat(Bytes::from(vec![0; MIB])).take(11).map(Ok::<_, &str>);
        let body = frames.chain(stream::pending());
        let new = NewObject { key: "incoming/test", content_type: "image/png" };
        let size = BodySize { announced: None, max: 20 * MIB as u64 };
        let mut storing = Box::pin(storage.store(tasks, &new, size, body));
        tokio::select! {
            _ = &mut storing => panic!("it never ends"),
            () = until(async || bucket.parts().iter().any(|name| name.contains(moment))) => {}
        }
        drop(storing);
        until(async || bucket.parts().is_empty()).await;
    }
    // The last of their tasks has ended: whatever was on its way has arrived.
    tasks.stop().await;
    assert_eq!(bucket.parts(), [""; 0]);
}

#[tokio::test]
async fn who_does_not_send_on_is_given_up() {
    let bucket = Bucket::start();
    let fleet = with(&bucket, Fleet::of(1)).set("SHOAL_BODY_TIMEOUT_MS", "500").start().await;
    let customer = fleet.client.register().await;
    let mut stream = begin(&fleet, &customer, 1_000).await;
    Reply::read(&mut stream).await.expect_problem(408, "body_timeout");
    until(async || fleet.database.number(UPLOADS).await == 0).await;
}

/// The usual deadline is not for files: another body, of which no more comes either, is waited for
/// no longer than that.
#[tokio::test]
async fn who_sends_on_slowly_is_waited_for_beyond_the_usual_deadline() {
    let fleet = Fleet::of(1).set("SHOAL_REQUEST_TIMEOUT_MS", "3000").start().await;
    let customer = fleet.client.register().await;
    let picture = lab::picture::png(1_000, 7);
    let mut slow = TcpStream::connect(fleet.replicas[0].address).await.unwrap();
    let head = |method: &str, path: &str, content_type: &str, length: usize| {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: shoal.test\r\nauthorization: Bearer {}\r\n\
             content-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n",
            customer.token(),
        )
    };
    slow.write_all(head("PUT", AVATAR, "image/png", picture.len()).as_bytes()).await.unwrap();
    slow.write_all(&picture[..MIB]).await.unwrap();

    let mut other = TcpStream::connect(fleet.replicas[0].address).await.unwrap();
    let name = head("PATCH", "/v1/users/me", "application/json", 100);
    other.write_all(name.as_bytes()).await.unwrap();
    Reply::read(&mut other).await.expect_problem(408, "body_timeout");

    slow.write_all(&picture[MIB..]).await.unwrap();
    assert_ne!(Reply::read(&mut slow).await.expect(200)["avatar_url"], Value::Null);
}

#[tokio::test]
async fn every_replica_shows_a_new_image_at_once() {
    let fleet = Fleet::of(3).start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(1, 100).await;
    let path = format!("/v1/products/{product}");
    let visitors: Vec<_> = (0..3).map(|replica| fleet.only(replica).anonymous()).collect();
    let image = format!("{path}/image");
    for (replica, file) in [File::png(60, 40), File::jpeg(50, 30)].iter().enumerate() {
        for visitor in &visitors {
            // Into each replica's own memory.
            visitor.get(&path).await.expect(200);
        }
        let admin = fleet.only(replica).with_token(admin.token());
        let reply = put(&admin, &image, file.content_type, file.bytes.clone()).await;
        let changed = reply.expect(200);
        let token = reply.header("consistency-token");
        for visitor in &visitors {
            let get = visitor.request(Method::GET, &path).header("consistency-token", token);
            let seen = Reply::of(get).await;
            assert_eq!(seen.expect(200)["image_url"], changed["image_url"]);
            assert_eq!(seen.header("etag"), reply.header("etag"));
        }
        assert_eq!(shown(&admin, &changed["image_url"]).await.body, file.bytes);
    }
    admin.delete(&image).await.expect(204);
    assert_eq!(admin.get(&path).await.expect(200)["image_url"], Value::Null);
    let events = "select count(*) from events where type = 'product.image_changed'";
    assert_eq!(fleet.database.number(events).await, 3);
    // In the order of the product's versions.
    let sequences =
        "select count(distinct sequence) from events where type = 'product.image_changed'";
    assert_eq!(fleet.database.number(sequences).await, 3);
}

#[tokio::test]
async fn without_s3_nothing_changes() {
    let bucket = Bucket::start();
    let way = FaultProxy::before(bucket.port()).unwrap();
    let endpoint = format!("http://127.0.0.1:{}", way.port());
    let fleet = Fleet::of(1).set("S3_ENDPOINT", &endpoint).start().await;
    let customer = fleet.client.register().await;
    let png = File::png(60, 40);
    let user = put(&customer, AVATAR, "image/png", png.bytes.clone()).await.expect(200);
    let kept = bucket.objects();
    way.set(Fault::Down).unwrap();
    // One that is small, and one that has to be sent in parts; again and again, so that the
    // breaker opens.
    for bytes in [png.bytes.clone(), lab::picture::png(1_500, 1)].iter().cycle().take(6) {
        let refused = put(&customer, AVATAR, "image/png", bytes.clone()).await;
        refused.expect_problem(503, "storage_unavailable");
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(customer.get("/v1/users/me").await.json()["avatar_url"], user["avatar_url"]);
    assert_eq!(fleet.database.number(UPLOADS).await, 1);
    way.clear().unwrap();
    assert_eq!(bucket.objects(), kept);
    // As soon as the breaker lets it.
    let back = async || put(&customer, AVATAR, "image/png", png.bytes.clone()).await.status == 200;
    until(back).await;
}

/// What a connection that was refused still has to say does not matter here.
#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let fleet = Fleet::one().await;
    let customer = fleet.client.register().await;
    let mut stream = TcpStream::connect(fleet.replicas[0].address).await.unwrap();
    let head = format!(
        "PUT {AVATAR} HTTP/1.1\r\nhost: shoal.test\r\nauthorization: Bearer {}\r\n\
         content-type: image/png\r\ncontent-length: {}\r\n\r\n",
        customer.token(),
        100 * MIB
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}
