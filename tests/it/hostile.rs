//! Clients that send too much, too slowly, or hang up, byte by byte over raw connections.

use std::time::Duration;

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_oneof},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use crate::support::{Client, Database, Fleet, HANG, Reply, order, unique};

/// Larger than all the buffers between a client and a server.
const LOTS: usize = 32 * 1024 * 1024;

async fn connect(fleet: &Fleet) -> TcpStream {
    TcpStream::connect(fleet.replicas[0].address).await.unwrap()
}

fn login_head(rest: &str) -> String {
    format!("POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{rest}")
}

#[tokio::test]
async fn a_gigabyte_is_refused_before_it_is_sent() {
    let fleet = Fleet::one().await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut stream = connect(&fleet).await;
        let head = login_head(&format!("content-length: 1073741824\r\n{expect}\r\n"));
        stream.write_all(head.as_bytes()).await.unwrap();
        Reply::read(&mut stream).await.expect_problem(413, "body_too_large");
    }
}

#[tokio::test]
async fn who_sends_first_and_reads_later_still_gets_the_refusal() {
    let fleet = Fleet::one().await;
    let piece = vec![b' '; LOTS];
    let chunk = format!("{LOTS:x}\r\n");
    for (head, path) in [
        ("content-length: 1073741824\r\n\r\n".to_owned(), "/v1/auth/login"),
        (format!("transfer-encoding: chunked\r\n\r\n{chunk}"), "/v1/auth/login"),
        ("content-length: 1073741824\r\n\r\n".to_owned(), "/v1/nothing"),
    ] {
        let mut stream = connect(&fleet).await;
        let head = login_head(&head).replace("/v1/auth/login", path);
        stream.write_all(head.as_bytes()).await.unwrap();
        timeout(HANG, stream.write_all(&piece)).await.expect("a hang").unwrap();
        let reply = Reply::read(&mut stream).await;
        match path {
            "/v1/nothing" => reply.expect_problem(404, "not_found"),
            _ => reply.expect_problem(413, "body_too_large"),
        };
    }
}

#[tokio::test]
async fn an_endless_stream_is_cut_off() {
    let fleet = Fleet::one().await;
    let mut stream = connect(&fleet).await;
    let head = login_head("transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 8_192, " ".repeat(8_192));
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let send = async {
        // Ends only by the server's doing.
        while writer.write_all(chunk.as_bytes()).await.is_ok() {}
    };
    // The end may be a reset, since this client never stops; the answer came before it.
    let read = async { while reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    timeout(HANG, async { tokio::join!(send, read) }).await.expect("a hang");
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("\"code\":\"body_too_large\""), "{answer}");
}

#[tokio::test]
async fn a_slow_head_is_timed_out_with_an_answer_and_silence_without() {
    let fleet = Fleet::of(1).set("SHOAL_HEADER_TIMEOUT_MS", "300").start().await;
    let mut slow = connect(&fleet).await;
    slow.write_all(b"GET /v1/products HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut silent = connect(&fleet).await;
    let reply = Reply::read(&mut slow).await;
    reply.expect_problem(408, "head_timeout");
    assert_eq!(reply.header("connection"), "close");
    let mut nothing = Vec::new();
    timeout(HANG, silent.read_to_end(&mut nothing)).await.expect("a hang").unwrap();
    assert!(nothing.is_empty(), "an answer to nothing would be taken for the next one");
}

#[tokio::test]
async fn a_slow_body_is_timed_out() {
    for (setting, header) in [("SHOAL_BODY_TIMEOUT_MS", ""), ("", "x-request-timeout-ms: 300\r\n")]
    {
        let mut builder = Fleet::of(1).set("SHOAL_REQUEST_TIMEOUT_MS", "600000");
        if !setting.is_empty() {
            builder = builder.set(setting, "300");
        }
        let fleet = builder.start().await;
        let mut stream = connect(&fleet).await;
        let head = login_head(&format!("content-length: 100\r\n{header}\r\n{{"));
        stream.write_all(head.as_bytes()).await.unwrap();
        Reply::read(&mut stream).await.expect_problem(408, "body_timeout");
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let fleet = Fleet::one().await;
    let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let (malformed, large) = ((400, "malformed_request"), (431, "headers_too_large"));
    for (bytes, (status, code)) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], malformed),
        (b"GET / HTTP/9.9\r\n\r\n", malformed),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", malformed),
        (b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", malformed),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", malformed),
        (huge.as_bytes(), large),
    ] {
        // Also when it follows a good request.
        for before in [&b""[..], b"GET /health/live HTTP/1.1\r\n\r\n"] {
            let mut stream = connect(&fleet).await;
            stream.write_all(before).await.unwrap();
            if !before.is_empty() {
                let mut answer = [0; 4_096];
                timeout(HANG, stream.read(&mut answer)).await.expect("a hang").unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200 "));
            }
            stream.write_all(bytes).await.unwrap();
            let reply = Reply::read(&mut stream).await;
            reply.expect_problem(status, code);
            assert_eq!(reply.header("connection"), "close");
        }
    }
}

/// Transactions of the service that have not ended; a failed one has no start any more.
async fn open_transactions(database: &Database) -> i64 {
    let sql = "select count(*) from pg_stat_activity where datname = current_database()
        and usename = 'shoal_app'
        and (xact_start is not null or state like 'idle in transaction%')";
    database.number(sql).await
}

/// Polls until `count` is what it should be.
async fn until(count: impl AsyncFn() -> i64, wanted: i64) {
    for _ in 0..600 {
        if count().await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still {} instead of {wanted}", count().await);
}

/// Takes the time-outs away that would end a statement or transaction in any case, and locks the
/// stock of `product` until the connection is closed.
async fn lock_without_time_outs(fleet: &Fleet, product: Uuid) -> PgConnection {
    let mut blocker = fleet.database.connect().await;
    for setting in ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"] {
        let database = &fleet.database.name;
        let alter = format!("alter role shoal_app in database {database} set {setting} = 0");
        blocker.execute(sqlx::AssertSqlSafe(alter)).await.unwrap();
    }
    // They count for new sessions.
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and usename = 'shoal_app'";
    blocker.execute(terminate).await.unwrap();
    blocker.execute("begin").await.unwrap();
    sqlx::query("select from inventory where product_id = $1 for update")
        .bind(product)
        .execute(&mut blocker)
        .await
        .unwrap();
    blocker
}

#[tokio::test]
async fn the_deadline_ends_a_request_that_waits_for_a_lock() {
    let fleet = Fleet::of(1).set("SHOAL_REQUEST_TIMEOUT_MS", "600000").start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(5, 100).await;
    let customer = fleet.client.register().await;
    let blocker = lock_without_time_outs(&fleet, product).await;
    let request = customer
        .request(Method::POST, "/v1/orders")
        .header("idempotency-key", "k")
        .header("x-request-timeout-ms", "400")
        .json(&order(&[(product, 1)]));
    let reply = Reply::of(request).await;
    let code = reply.json()["code"].as_str().unwrap().to_owned();
    // The statement's time-out and the request's are due at the same moment.
    assert!(["deadline_exceeded", "database_unavailable"].contains(&code.as_str()), "{code}");
    reply.expect_problem(503, &code);
    assert_eq!(reply.header("retry-after"), "1");
    until(async || open_transactions(&fleet.database).await, 0).await;
    drop(blocker);
    customer.place_order("k", &[(product, 1)]).await.expect(201);
    assert_eq!(admin.stock(product).await, 4);
}

/// Sends an order that has to wait for a lock, and hangs up while it does.
async fn order_and_hang_up(fleet: &Fleet, customer: &Client, product: Uuid, deadline: &str) {
    let request = customer
        .request(Method::POST, "/v1/orders")
        .header("idempotency-key", "k")
        .header("x-request-timeout-ms", deadline)
        .json(&order(&[(product, 1)]));
    let request = tokio::spawn(request.send());
    until(async || open_transactions(&fleet.database).await, 1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn what_a_client_hung_up_on_ends_by_its_deadline() {
    let fleet = Fleet::of(1).set("SHOAL_REQUEST_TIMEOUT_MS", "600000").start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(5, 100).await;
    let customer = fleet.client.register().await;
    let blocker = lock_without_time_outs(&fleet, product).await;
    order_and_hang_up(&fleet, &customer, product, "6000").await;
    until(async || open_transactions(&fleet.database).await, 0).await;
    drop(blocker);
    // Neither the row nor the key is held by the one that is gone.
    let placed = customer.place_order("k", &[(product, 5)]).await;
    placed.expect(201);
    assert_eq!(placed.header("idempotency-replayed"), "");
    assert_eq!(admin.stock(product).await, 0);
}

#[tokio::test]
async fn what_a_client_hung_up_on_can_be_asked_for_again() {
    let fleet = Fleet::of(1).set("SHOAL_REQUEST_TIMEOUT_MS", "600000").start().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(5, 100).await;
    let customer = fleet.client.register().await;
    let blocker = lock_without_time_outs(&fleet, product).await;
    order_and_hang_up(&fleet, &customer, product, "600000").await;
    drop(blocker);
    until(async || open_transactions(&fleet.database).await, 0).await;
    // Begun before the client was gone, a write runs to its end.
    let placed = customer.place_order("k", &[(product, 1)]).await;
    placed.expect(201);
    assert_eq!(placed.header("idempotency-replayed"), "true");
    assert_eq!(admin.stock(product).await, 4);
}

/// Bodies from noise to almost right.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\u0000",
        "null",
        "true",
        "-1",
        "1e99",
        "\"items\"",
        "\"delta\"",
        "\"name\"",
        "\"email\"",
        "\"quantity\"",
        "9223372036854775808",
        "\"\u{0}\"",
    ];
    let field = prop_oneof![
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(|text| json!(text)),
        any::<bool>().prop_map(|flag| json!(flag)),
        proptest::strategy::Just(json!([{ "product_id": Uuid::nil(), "quantity": 1 }])),
        proptest::strategy::Just(json!("EUR")),
    ];
    let name = proptest::sample::select(vec![
        "sku",
        "name",
        "description",
        "unit_amount",
        "currency",
        "stock",
        "delta",
        "items",
        "email",
        "password",
        "refresh_token",
        "current_password",
        "new_password",
    ]);
    prop_oneof![
        vec(any::<u8>(), 0..200),
        vec(proptest::sample::select(words.to_vec()), 0..30)
            .prop_map(|words| words.concat().into_bytes()),
        proptest::collection::btree_map(name, field, 0..8)
            .prop_map(|fields| serde_json::to_vec(&fields).unwrap()),
    ]
}

#[tokio::test]
async fn no_body_whatever_makes_a_500() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let product = admin.create_product(50, 100).await;
    let api: Value = serde_json::to_value(shoal::app::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        // A log-out would end the session that the others use.
        for method in ["post", "patch"].into_iter().filter(|_| path != "/v1/auth/logout") {
            if methods.get(method).is_some() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                routes.push((method, path.replace("{id}", &product.to_string())));
            }
        }
    }
    assert!(routes.len() > 10, "{routes:?}");
    let mut runner = TestRunner::default();
    for _ in 0..300 / routes.len() {
        for (method, path) in &routes {
            let body = bodies().new_tree(&mut runner).unwrap().current();
            send_hostile(&admin, method, path, body).await;
        }
    }
}

async fn send_hostile(client: &Client, method: &Method, path: &str, body: Vec<u8>) {
    let shown = String::from_utf8_lossy(&body).into_owned();
    let request = client.request(method.clone(), path).header("idempotency-key", unique("k"));
    let request = request.header("content-type", "application/json").body(body);
    let reply = timeout(HANG, Reply::of(request)).await.expect("a hang");
    assert!(reply.status < 500, "{method} {path} {shown:?}: {}", reply.status);
    if reply.status >= 400 {
        let code = reply.json()["code"].as_str().unwrap().to_owned();
        reply.expect_problem(reply.status, &code);
    }
}
