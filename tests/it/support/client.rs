//! A client whose methods are named after requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;

use super::unique;

pub const PASSWORD: &str = "correct horse battery";

/// As promised for every replica, whatever has become of Redis.
const REVOCATION_SPREADS_WITHIN: Duration = Duration::from_secs(5);

/// Goes round its addresses, request by request. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    addresses: Arc<Vec<SocketAddr>>,
    next: Arc<AtomicUsize>,
    token: Option<String>,
    pub user_id: Uuid,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            http,
            addresses: Arc::new(addresses),
            next: Arc::default(),
            token: None,
            user_id: Uuid::nil(),
        }
    }

    pub fn with_addresses(&self, addresses: Vec<SocketAddr>) -> Self {
        Self { addresses: Arc::new(addresses), ..self.clone() }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    /// A request to the next address, with the token if there is one.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let address = self.addresses[turn % self.addresses.len()];
        let request = self.http.request(method, format!("http://{address}{path}"));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn post_with_key(&self, path: &str, key: &str, body: &Value) -> Reply {
        let request = self.request(Method::POST, path).header("idempotency-key", key);
        Reply::of(request.json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    pub async fn until_ready(&self) {
        for _ in 0..3_000 {
            let reply = self.request(Method::GET, "/health/startup").send().await;
            if reply.is_ok_and(|reply| reply.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the replica did not become ready");
    }

    /// A new customer, logged in.
    pub async fn register(&self) -> Self {
        self.register_as(&format!("{}@shoal.test", unique("user"))).await
    }

    pub async fn register_as(&self, email: &str) -> Self {
        let body = json!({ "email": email, "password": PASSWORD, "name": "Test" });
        let reply = self.post("/v1/auth/register", &body).await.expect(201);
        Self {
            user_id: reply["user"]["id"].as_str().unwrap().parse().unwrap(),
            ..self.with_token(reply["access_token"].as_str().unwrap())
        }
    }

    pub async fn login(&self, email: &str, password: &str) -> Reply {
        let body = json!({ "email": email, "password": password });
        self.post("/v1/auth/login", &body).await
    }

    /// Waits until the token is refused, for as long as a revocation may take to spread.
    pub async fn until_refused(&self) {
        let begun = Instant::now();
        loop {
            let may_still_pass = begun.elapsed() < REVOCATION_SPREADS_WITHIN;
            let reply = self.get("/v1/users/me").await;
            if reply.status != 200 || !may_still_pass {
                reply.expect_problem(401, "unauthorized");
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks every answer up to the first that was counted in Redis, as one sees by what is left:
    /// more than `share`, which is what a replica grants by itself.
    pub async fn until_redis_answers(&self, share: u32, check: impl Fn(&Reply)) {
        for _ in 0..1_000 {
            let reply = self.get("/v1/users/me").await;
            check(&reply);
            if reply.limit_remaining() > share {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the replica does not find back to Redis");
    }

    /// A new product; called by an administrator.
    pub async fn create_product(&self, stock: i64, unit_amount: i64) -> Uuid {
        let sku = unique("SKU");
        let body = json!({
            "sku": sku, "name": format!("Product {sku}"), "description": "A thing.",
            "unit_amount": unit_amount, "currency": "EUR", "stock": stock,
        });
        let product = self.post("/v1/products", &body).await.expect(201);
        product["id"].as_str().unwrap().parse().unwrap()
    }

    pub async fn place_order(&self, key: &str, items: &[(Uuid, i64)]) -> Reply {
        self.post_with_key("/v1/orders", key, &order(items)).await
    }

    /// The exact stock; called by an administrator.
    pub async fn stock(&self, product_id: Uuid) -> i64 {
        let reply = self.get(&format!("/v1/products/{product_id}/stock")).await.expect(200);
        reply["stock"].as_i64().unwrap()
    }
}

/// The body of an order.
pub fn order(items: &[(Uuid, i64)]) -> Value {
    let items: Vec<_> = items
        .iter()
        .map(|(product_id, quantity)| json!({ "product_id": product_id, "quantity": quantity }))
        .collect();
    json!({ "items": items })
}

impl Reply {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    /// The body as JSON, if the status is `status`.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The body as text, if the status is `status`.
    #[track_caller]
    pub fn expect_text(&self, status: u16) -> &str {
        assert_eq!(self.status, status);
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// A problem document of `status` with `code`, complete as clients may rely on.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        for field in ["type", "title", "detail", "instance"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Requests left, as the `RateLimit` header says.
    pub fn limit_remaining(&self) -> u32 {
        let state = self.header("ratelimit");
        let remaining = state.split(";r=").nth(1).unwrap().split(';').next().unwrap();
        remaining.parse().unwrap()
    }
}
