//! Webhooks as administrators manage them.

use serde_json::{Value, json};
use shoal::platform::events::{self, NewEvent};
use uuid::Uuid;

use crate::support::{Client, Fleet, Receiver, until};

/// A webhook as it was created.
pub struct Webhook {
    pub id: Uuid,
    pub secret: String,
}

impl Webhook {
    pub async fn create(admin: &Client, url: &str, events: &[&str]) -> Self {
        let body = json!({ "url": url, "events": events });
        let made = admin.post("/v1/webhooks", &body).await.expect(201);
        let secret = made["secret"].as_str().unwrap().to_owned();
        Self { id: made["id"].as_str().unwrap().parse().unwrap(), secret }
    }

    pub fn path(&self) -> String {
        format!("/v1/webhooks/{}", self.id)
    }

    pub async fn get(&self, admin: &Client) -> Value {
        admin.get(&self.path()).await.expect(200)
    }

    /// Its deliveries, newest event first.
    pub async fn deliveries(&self, admin: &Client) -> Vec<Value> {
        let page = admin.get(&format!("{}/deliveries?limit=100", self.path())).await.expect(200);
        page["data"].as_array().unwrap().clone()
    }

    /// Waits until the newest delivery is in this state, and gives it.
    pub async fn until_newest_is(&self, admin: &Client, state: &str, attempts: i64) -> Value {
        let mut newest = Value::Null;
        until(async || {
            newest = self.deliveries(admin).await.into_iter().next().unwrap_or_default();
            newest["state"] == state && newest["attempts"] == attempts
        })
        .await;
        newest
    }
}

/// Commits events of a type, all at once.
pub async fn emit(fleet: &Fleet, kind: &'static str, count: usize) {
    let mut tx = fleet.app().db.begin().await.unwrap();
    for number in 0..count {
        let event = NewEvent {
            kind,
            subject_id: Uuid::now_v7(),
            sequence: 1,
            customer_id: None,
            data: &json!({ "number": number }),
        };
        events::emit(&mut tx, &event).unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_manages_them_and_nobody_else() {
    let fleet = Fleet::one().await;
    let admin = fleet.admin().await;
    let webhook = Webhook::create(&admin, "https://example.com/hook", &["order.*"]).await;
    assert!(webhook.secret.starts_with("whsec_"));
    let shown = admin.get(&webhook.path()).await;
    let (etag, body) = (shown.header("etag").to_owned(), shown.expect(200));
    assert_eq!((&body["enabled"], &body["events"]), (&json!(true), &json!(["order.*"])));
    let change = json!({ "events": ["*"], "description": "All", "enabled": false });
    let stale = admin.request(reqwest::Method::PATCH, &webhook.path()).header("if-match", "\"9\"");
    let stale = crate::support::Reply::of(stale.json(&change)).await;
    stale.expect_problem(412, "precondition_failed");
    let changed = admin.patch(&webhook.path(), &change).await;
    assert_ne!(changed.header("etag"), etag);
    let changed = changed.expect(200);
    assert_eq!(
        (&changed["enabled"], &changed["disabled_reason"]),
        (&json!(false), &json!("by_hand"))
    );
    let enabled = admin.patch(&webhook.path(), &json!({ "enabled": true })).await.expect(200);
    assert_eq!((&enabled["enabled"], &enabled["disabled_at"]), (&json!(true), &Value::Null));
    let list = admin.get("/v1/webhooks").await.expect(200);
    assert_eq!(list["data"], json!([enabled]));

    let customer = fleet.client.register().await;
    let deliveries = format!("{}/deliveries", webhook.path());
    for path in ["/v1/webhooks", &webhook.path(), &deliveries] {
        customer.get(path).await.expect_problem(403, "forbidden");
    }
    let body = json!({ "url": "https://example.com", "events": ["*"] });
    customer.post("/v1/webhooks", &body).await.expect_problem(403, "forbidden");

    assert_eq!(admin.delete(&webhook.path()).await.status, 204);
    for path in [&webhook.path(), &deliveries] {
        admin.get(path).await.expect_problem(404, "not_found");
    }
    let test = format!("{}/test", webhook.path());
    admin.post(&test, &json!({})).await.expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused() {
    let fleet = Fleet::of(1).set("SHOAL_WEBHOOK_ALLOW_INSECURE", "false").start().await;
    let admin = fleet.admin().await;
    let create = async |url: &str, events: Value| {
        admin.post("/v1/webhooks", &json!({ "url": url, "events": events })).await
    };
    for url in [
        "example.com",
        "http://example.com/",
        "https://user:password@example.com/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://localhost./",
    ] {
        let problem = create(url, json!(["*"])).await.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/url", "{url}");
    }
    for events in [json!([]), json!(["orders.paid"]), json!(["order"]), json!("*")] {
        let refused = create("https://example.com/", events).await;
        let problem = refused.expect_problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["pointer"], "/events");
    }
    let webhook = Webhook::create(&admin, "https://example.com/", &["*"]).await;
    let moved = admin.patch(&webhook.path(), &json!({ "url": "https://10.0.0.1/" })).await;
    moved.expect_problem(422, "validation_failed");
    for number in 1..100 {
        Webhook::create(&admin, &format!("https://example.com/{number}"), &["*"]).await;
    }
    create("https://example.com/", json!(["*"])).await.expect_problem(409, "too_many_webhooks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_once_and_can_be_replaced() {
    let fleet = Fleet::of(1).with_workers().start().await;
    let (admin, receiver) = (fleet.admin().await, Receiver::content().await);
    let webhook = Webhook::create(&admin, &receiver.url("/"), &["order.*"]).await;
    let test = async |key: &str| {
        let path = format!("{}/test", webhook.path());
        let sent = admin.post_with_key(&path, key, &json!({})).await.expect(202);
        let id: Uuid = sent["id"].as_str().unwrap().parse().unwrap();
        let find = || receiver.received("/").into_iter().find(|received| received.id == id);
        until(async || find().is_some()).await;
        find().unwrap()
    };
    let first = test("a").await;
    assert_eq!(first.json()["type"], "webhook.test");
    assert!(first.is_signed_with(&webhook.secret));

    let path = format!("{}/rotate-secret", webhook.path());
    let rotated = admin.post_with_key(&path, "r", &json!({})).await.expect(200);
    let secret = rotated["secret"].as_str().unwrap();
    assert_ne!(secret, webhook.secret);
    let again = admin.post_with_key(&path, "r", &json!({})).await.expect(200);
    assert_eq!(again["secret"], secret, "the same request, the same secret");
    let both = test("b").await;
    assert!(both.is_signed_with(&webhook.secret) && both.is_signed_with(secret));

    let mut database = fleet.database.connect().await;
    let day = "update webhook_endpoints
               set previous_secret_expires_at = previous_secret_expires_at - interval '1 day'";
    sqlx::query(day).execute(&mut database).await.unwrap();
    let last = test("c").await;
    assert!(last.is_signed_with(secret) && !last.is_signed_with(&webhook.secret));

    let bare = |secret: &str| secret.trim_start_matches("whsec_").to_owned();
    for path in ["/v1/webhooks", &webhook.path(), &format!("{}/deliveries", webhook.path())] {
        let shown = admin.get(path).await;
        let shown = shown.expect_text(200);
        assert!(!shown.contains(&bare(secret)) && !shown.contains(&bare(&webhook.secret)));
    }
}
