//! What the load asks for: a few products, and customers who order them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::api::Shoal;
use crate::bench::http;
use crate::error::{Error, Result};

const PRODUCTS: usize = 20;
const CUSTOMERS: usize = 4;
/// Of everybody, in a database that is thrown away.
const PASSWORD: &str = "a-simulation-has-no-secrets-7";
const STOCK: u64 = 1_000_000_000;

/// Made through the API of the first replica.
#[derive(Clone, Debug)]
pub(super) struct Shop {
    products: Vec<String>,
    /// Each with its token, and an order of its own.
    customers: Vec<(String, String)>,
    /// Products that nobody else buys.
    held: Vec<String>,
    run: u64,
}

/// A request, and the status that answers it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) text: String,
    pub(super) expected: u16,
}

impl Shop {
    /// With `held` products apart.
    pub(super) fn open(shoal: &Shoal, port: u16, held: usize) -> Result<Self> {
        let run = rand::random::<u32>();
        let email = format!("admin-{run}@autoscale.test");
        let create = ["admin", "create", "--email", &email, "--name", "Admin"];
        shoal.run(&create, &format!("{PASSWORD}\n"), "make an administrator")?;
        let login = format!(r#"{{"email":"{email}","password":"{PASSWORD}"}}"#);
        let admin = text(&posted(port, "/v1/auth/login", "", &login)?["access_token"]);
        let mut products = Vec::new();
        for number in 0..PRODUCTS + held {
            let product = format!(
                r#"{{"sku":"AS-{run}-{number}","name":"Product {number}","description":"A thing.","unit_amount":100,"currency":"EUR","stock":{STOCK}}}"#
            );
            products.push(text(&posted(port, "/v1/products", &admin, &product)?["id"]));
        }
        let held = products.split_off(PRODUCTS);
        let mut shop = Self { products, customers: Vec::new(), held, run: u64::from(run) };
        for number in 0..CUSTOMERS {
            let customer = format!(
                r#"{{"email":"c{number}-{run}@autoscale.test","password":"{PASSWORD}","name":"C"}}"#
            );
            let token = text(&posted(port, "/v1/auth/register", "", &customer)?["access_token"]);
            let key = format!("{run}-first-{number}");
            let bearer = format!("Bearer {token}");
            let headers = [("Authorization", &*bearer), ("Idempotency-Key", &*key)];
            let order = http::post_with(port, "/v1/orders", &headers, &basket(&shop.products[0]))?;
            shop.customers.push((token, text(&parsed(&order, "/v1/orders")?["id"])));
        }
        Ok(shop)
    }

    pub(super) fn held(&self) -> &[String] {
        &self.held
    }

    /// Nine reads and an order, over and over.
    pub(super) fn request(&self, number: usize) -> Request {
        let product = &self.products[number % PRODUCTS];
        let (token, order) = &self.customers[number % CUSTOMERS];
        match number % 10 {
            0 => self.order(number, product),
            1..=4 => get(&format!("/v1/products/{product}"), ""),
            5 | 6 => get("/v1/products?limit=20", ""),
            _ => get(&format!("/v1/orders/{order}"), token),
        }
    }

    /// An order under a key of its own.
    pub(super) fn order(&self, number: usize, product: &str) -> Request {
        let (token, _) = &self.customers[number % CUSTOMERS];
        let body = basket(product);
        let mut text = head("POST", "/v1/orders", token);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "Idempotency-Key: {}-{product}-{number}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.run,
            body.len()
        );
        Request { text, expected: 201 }
    }
}

fn get(path: &str, token: &str) -> Request {
    Request { text: format!("{}\r\n", head("GET", path, token)), expected: 200 }
}

/// Each on a connection of its own: nginx closes those that wait for a request whenever replicas come or go.
fn head(method: &str, path: &str, token: &str) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n");
    if !token.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(head, "Authorization: Bearer {token}\r\n");
    }
    head
}

fn basket(product: &str) -> String {
    format!(r#"{{"items":[{{"product_id":"{product}","quantity":1}}]}}"#)
}

fn posted(port: u16, path: &str, token: &str, body: &str) -> Result<Value> {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer)];
    let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
    parsed(&http::post_with(port, path, headers, body)?, path)
}

fn parsed(answer: &http::Answer, path: &str) -> Result<Value> {
    match answer.status {
        200 | 201 => Ok(serde_json::from_slice(&answer.body).unwrap_or_default()),
        status => Err(Error::new(format!("POST {path} answered {status}: {}", answer.text()))),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
