//! Jobs of orders.

use std::{fmt::Write, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{model::Order, queries, service};
use crate::{
    domain::users,
    platform::{
        events::Event,
        jobs::{Failure, Job, Lease, Queue, Registry},
        mail::{self, Mail},
    },
    state::AppState,
};

const ORDERS: Queue = Queue { name: "orders", concurrency: 2 };

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new()
        .once(confirm_new)
        .schedule("orders.expire", Duration::from_secs(60), || ExpireOrders {})
}

fn confirm_new(event: &Event) -> Option<Confirm> {
    (event.kind == "order.created").then_some(Confirm { order_id: event.subject_id })
}

/// Tells the customer by mail what was ordered.
#[derive(Serialize, Deserialize)]
struct Confirm {
    order_id: Uuid,
}

impl Job for Confirm {
    type State = AppState;

    const KIND: &'static str = "orders.confirm";
    const QUEUE: &'static Queue = &mail::QUEUE;

    async fn run(self, app: &AppState, lease: &Lease) -> Result<(), Failure> {
        let Some(mailer) = &app.mail else {
            return Ok(());
        };
        let mut conn = app.db.primary().await?;
        let Some(order) = queries::find(&mut conn, self.order_id, None).await? else {
            return Ok(());
        };
        let customer = users::find(&mut conn, order.customer_id).await?;
        drop(conn);
        let Some(customer) = customer else {
            return Ok(());
        };
        let text = format!("Hello {},\n\n{}", customer.name, confirmation(&order));
        let subject = "Your order";
        mailer.send(Mail { id: lease.job_id(), to: &customer.email, subject, text }).await
    }
}

/// Cancels orders that nobody has paid for in time, so that others may have the goods.
#[derive(Serialize, Deserialize)]
struct ExpireOrders {}

impl Job for ExpireOrders {
    type State = AppState;
    const KIND: &'static str = "orders.expire";
    const QUEUE: &'static Queue = &ORDERS;
    const TIMEOUT: Duration = Duration::from_secs(300);

    fn unique_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let expired = service::expire_unpaid(app, app.orders.payment_term).await?;
        if expired > 0 {
            tracing::info!(expired, "orders were not paid in time");
        }
        Ok(())
    }
}

fn confirmation(order: &Order) -> String {
    let currency = &order.currency;
    let mut text = format!("thank you for your order {}:\n\n", order.id);
    for item in &order.items {
        let price = price(item.unit_amount, currency);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {} x {}, {price} each", item.quantity, item.name);
    }
    let _ = writeln!(text, "\nIn total {}.", price(order.total_amount, currency));
    text
}

/// As people write it: `12.34 EUR`, `1234 JPY`.
fn price(amount: i64, currency: &str) -> String {
    // ISO 4217: those with other than two digits after the point.
    let digits = match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX"
        | "UYI" | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    };
    if digits == 0 {
        return format!("{amount} {currency}");
    }
    let unit = 10_i64.pow(digits);
    let width = digits as usize;
    format!("{}.{:0width$} {currency}", amount / unit, amount % unit)
}

#[cfg(test)]
mod tests {
    use super::price;

    #[test]
    fn writes_prices_as_people_do() {
        for (amount, currency, expected) in [
            (1_234, "EUR", "12.34 EUR"),
            (5, "GBP", "0.05 GBP"),
            (1_234, "JPY", "1234 JPY"),
            (1_234, "KWD", "1.234 KWD"),
        ] {
            assert_eq!(price(amount, currency), expected);
        }
    }
}
