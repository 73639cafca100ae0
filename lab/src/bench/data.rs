//! The shop that is measured: products, customers and their orders, with ids that can be told from a number.

use super::http;
use crate::error::{Error, Result};
use crate::psql::Psql;

/// The catalogue.
pub(super) const PRODUCTS: usize = 10_000;
/// The products that everybody looks at.
pub(super) const HOT_PRODUCTS: usize = 1_000;
/// As many as there are connections, so that none waits for another's rate limit.
pub(super) const CUSTOMERS: usize = 64;
/// Orders placed before the measurement; order n belongs to customer 1 + n % CUSTOMERS.
pub(super) const ORDERS: usize = 10_000;
/// Of every customer, on loopback and in a database that is thrown away.
const PASSWORD: &str = "a-bench-has-no-secrets-7";

/// What the ids begin with. They end with a number of twelve hexadecimal digits.
#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) products: String,
    pub(super) customers: String,
    pub(super) orders: String,
    /// Orders and events that the bench itself makes.
    pub(super) new: String,
    /// An access token of each customer.
    pub(super) tokens: Vec<String>,
}

impl Data {
    /// Fills the database behind the replica on `api_port`.
    pub(super) fn load(psql: &Psql<'_>, api_port: u16) -> Result<Self> {
        // UUIDv7 of now: orders are partitioned by the time in their ids.
        let now = psql.run("select substr(uuid_at(now())::text, 1, 14)")?;
        let prefix = |kind: u8| format!("{now}700{kind}-8000-");
        let mut data = Self {
            products: prefix(0),
            customers: prefix(1),
            orders: prefix(2),
            new: prefix(3),
            tokens: Vec::new(),
        };
        psql.run(&data.products_sql())?;
        register(api_port, &email(0))?;
        psql.run(&data.customers_and_orders_sql())?;
        // Else the first round would pay for it.
        psql.run("vacuum analyze")?;
        psql.run("checkpoint")?;
        data.tokens =
            (1..=CUSTOMERS).map(|number| log_in(api_port, number)).collect::<Result<_>>()?;
        Ok(data)
    }

    pub(super) fn product(&self, number: usize) -> String {
        format!("{}{number:012x}", self.products)
    }

    pub(super) fn customer(&self, number: usize) -> String {
        format!("{}{number:012x}", self.customers)
    }

    pub(super) fn order(&self, number: usize) -> String {
        format!("{}{number:012x}", self.orders)
    }

    /// The token of the customer whose order it is.
    pub(super) fn token_of_order(&self, number: usize) -> &str {
        &self.tokens[number % CUSTOMERS]
    }

    fn products_sql(&self) -> String {
        let id = id(&self.products, "n");
        format!(
            "insert into products (id, sku, name, description, unit_amount, currency, availability)
             select {id}, 'BENCH-' || n, 'A product to measure with, number ' || n,
                    'It is as long as the description of a product is: a sentence or two, no more.',
                    1000 + n, 'EUR', 'in_stock'
             from generate_series(1, {PRODUCTS}) n;
             insert into inventory (product_id, on_hand)
             select {id}, 1000000000 from generate_series(1, {PRODUCTS}) n;"
        )
    }

    /// All customers have the password of the one that was registered.
    fn customers_and_orders_sql(&self) -> String {
        let (customer, order) = (id(&self.customers, "n"), id(&self.orders, "n"));
        let owner = id(&self.customers, &format!("(1 + n % {CUSTOMERS})"));
        let product = id(&self.products, &format!("(1 + (n + 7 * line) % {PRODUCTS})"));
        let registered = email(0);
        format!(
            "insert into users (id, email, name, password_hash)
             select {customer}, 'customer-' || n || '@bench.test', 'A customer', u.password_hash
             from generate_series(1, {CUSTOMERS}) n, users u where u.email = '{registered}';
             insert into orders (id, customer_id, status, total_amount, currency)
             select {order}, {owner}, 'pending', 3998, 'EUR' from generate_series(1, {ORDERS}) n;
             insert into order_items
                 (order_id, line, customer_id, product_id, name, quantity, unit_amount)
             select {order}, line, {owner}, {product}, 'A product to measure with', 1, 1999
             from generate_series(1, {ORDERS}) n, generate_series(1, 2) line;"
        )
    }
}

/// SQL for the id of a number.
fn id(prefix: &str, number: &str) -> String {
    format!("('{prefix}' || lpad(to_hex({number}), 12, '0'))::uuid")
}

fn email(number: usize) -> String {
    format!("customer-{number}@bench.test")
}

/// What is posted to log in.
pub(super) fn log_in_body(number: usize) -> String {
    format!(r#"{{"email":"{}","password":"{PASSWORD}"}}"#, email(number))
}

fn register(port: u16, email: &str) -> Result<()> {
    let body = format!(r#"{{"email":"{email}","password":"{PASSWORD}","name":"A customer"}}"#);
    let answer = http::post(port, "/v1/auth/register", &body)?;
    match answer.status {
        201 => Ok(()),
        status => Err(Error::new(format!(
            "cannot register a customer: the API answered {status}: {}",
            answer.text()
        ))),
    }
}

fn log_in(port: u16, number: usize) -> Result<String> {
    let answer = http::post(port, "/v1/auth/login", &log_in_body(number))?;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["access_token"].as_str().map(str::to_owned).ok_or_else(|| {
        Error::new(format!(
            "cannot log a customer in: the API answered {}: {}",
            answer.status,
            answer.text()
        ))
    })
}
