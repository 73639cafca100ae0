//! Demo data, so that a newcomer finds a shop with something in it.

use crate::api::Shoal;
use crate::error::{Error, Result};
use crate::net::post_json;
use crate::site::repository;

/// Log-in names and passwords of the demo accounts. They exist on loopback only.
const ADMIN: (&str, &str) = ("admin@shoal.test", "lantern-keeper-41");
const CUSTOMER: (&str, &str) = ("ada@shoal.test", "drifting-kelp-27");

/// Loads the products and makes the administrator; again, it changes nothing.
pub(crate) fn load(shoal: &Shoal) -> Result<()> {
    let products = repository().join("lab/demo/products.csv");
    shoal.run(
        &["import", "products", &products.to_string_lossy()],
        "",
        "load the demo products",
    )?;
    let (email, password) = ADMIN;
    shoal.run(
        &["admin", "create", "--email", email, "--name", "Admin"],
        &format!("{password}\n"),
        "make the demo administrator",
    )?;
    Ok(())
}

/// Registers the customer through the front door, unless an earlier run has.
pub(crate) fn register_customer(port: u16) -> Result<()> {
    let (email, password) = CUSTOMER;
    let body = format!(r#"{{"email":"{email}","password":"{password}","name":"Ada"}}"#);
    match post_json(port, "/v1/auth/register", &body) {
        Some(201 | 409) => Ok(()),
        Some(status) => {
            Err(Error::new(format!("cannot register the demo customer: the API answered {status}")))
        }
        None => Err(Error::new("cannot register the demo customer: the API did not answer")),
    }
}

/// The accounts, and five lines to try.
pub(crate) fn introduction(port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}");
    let ((admin, admin_password), (customer, customer_password)) = (ADMIN, CUSTOMER);
    format!(
        r#"  Demo accounts
    {admin:<18}  {admin_password}   (administrator)
    {customer:<18}  {customer_password}    (customer)

  Try
    curl -s {url}/health/ready
    curl -s '{url}/v1/products?limit=3'
    TOKEN=$(curl -s {url}/v1/auth/login -H 'Content-Type: application/json' -d '{{"email":"{customer}","password":"{customer_password}"}}' | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
    PRODUCT=$(curl -s '{url}/v1/products?limit=1' | sed 's/.*"data":\[{{"id":"\([^"]*\)".*/\1/')
    curl -si {url}/v1/orders -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: $RANDOM" -H 'Content-Type: application/json' -d "{{\"items\":[{{\"product_id\":\"$PRODUCT\",\"quantity\":1}}]}}"

  Browse {url}/docs
  Read the mail that this sends: cargo lab mails. Orders whose total ends in .13 are declined by the payment provider.
"#
    )
}
