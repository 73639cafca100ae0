//! `shoal events verify`: replays the trail of every order and compares it with the order.
//!
//! Page by page, so that memory stays the same however many there are, and each page in one
//! snapshot, so that orders may be placed and moved on meanwhile.

use serde::Deserialize;
use uuid::Uuid;

use super::{
    model::{Order, OrderItem},
    queries,
    status::Status,
};
use crate::platform::{
    db::{self, Db},
    events::{self, Event},
};

/// Orders whose trails are compared at once; and events that are looked for an order of.
const PAGE: i64 = 500;

/// How much was compared.
#[derive(Debug, Default, Clone, Copy)]
pub struct Verified {
    pub orders: usize,
    pub events: usize,
    /// Orders that are not what their trail says, and trails without an order.
    pub differing: usize,
}

/// What every event of an order says.
#[derive(Deserialize)]
struct Told {
    order_id: Uuid,
    status: Status,
    total_amount: i64,
    currency: String,
    /// Of the first one.
    #[serde(default)]
    items: Vec<OrderItem>,
}

/// Compares all orders with their trails, and `tell`s of each difference in a line for a person.
///
/// # Errors
/// The database is away.
pub async fn verify(db: &Db, mut tell: impl FnMut(&str)) -> Result<Verified, db::Error> {
    let mut verified = Verified::default();
    let mut before = Uuid::max();
    loop {
        let mut tx = db.begin().await?;
        queries::take_snapshot(&mut tx).await?;
        let orders = queries::list_page(&mut tx, None, None, before, PAGE).await?;
        let Some(last) = orders.last() else { break };
        before = last.id;
        let ids: Vec<Uuid> = orders.iter().map(|order| order.id).collect();
        let mut trails = events::trails(&mut tx, &ids).await?;
        tx.commit().await?;
        verified.orders += orders.len();
        verified.events += trails.len();
        for order in &orders {
            let trail: Vec<Event> =
                trails.extract_if(.., |event| event.subject_id == order.id).collect();
            if let Err(why) = replay(order, &trail) {
                verified.differing += 1;
                tell(&format!("order {}: {why}", order.id));
            }
        }
    }
    let mut after = Uuid::nil();
    loop {
        let page = queries::beginnings(&mut db.primary().await?, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(verified) };
        after = last.event_id;
        for event in page.iter().filter(|event| event.is_orphan) {
            verified.differing += 1;
            tell(&format!("order {}: it has a trail, and does not exist", event.order_id));
        }
    }
}

/// # Errors
/// Where the trail and the order part.
fn replay(order: &Order, trail: &[Event]) -> Result<(), String> {
    let mut status: Option<Status> = None;
    for (event, expected) in trail.iter().zip(1..) {
        let at = event.sequence;
        if at != expected {
            return Err(format!("event {expected} is missing, or there are two of it"));
        }
        let told: Told = serde_json::from_value(event.data.clone())
            .map_err(|error| format!("event {at} cannot be read: {error}"))?;
        if event.kind != told.status.event() {
            return Err(format!("event {at} is {} and says {}", event.kind, told.status.as_str()));
        }
        match status {
            None if told.status != Status::Pending => {
                return Err(format!("it begins with {}", event.kind));
            }
            None => compare_items(order, &told)?,
            Some(status) if !status.can_become(told.status) => {
                let (from, to) = (status.as_str(), told.status.as_str());
                return Err(format!("event {at} moves it from {from} to {to}"));
            }
            Some(_) => {}
        }
        let of_whom = (event.customer_id, told.order_id);
        if of_whom != (Some(order.customer_id), order.id) {
            return Err(format!("event {at} is of another customer or order"));
        }
        if (told.total_amount, &told.currency) != (order.total_amount, &order.currency) {
            return Err(format!("event {at} has another total than the order"));
        }
        status = Some(told.status);
    }
    match status {
        None => Err("it has no trail".to_owned()),
        Some(last) if last != order.status => {
            let (order, trail) = (order.status.as_str(), last.as_str());
            Err(format!("it is {order}, and {trail} by its trail"))
        }
        Some(_) if trail.len() != order.version as usize => {
            Err(format!("it has version {} and {} events", order.version, trail.len()))
        }
        Some(_) => Ok(()),
    }
}

fn compare_items(order: &Order, told: &Told) -> Result<(), String> {
    if order.items != told.items {
        return Err("its lines are not those it was placed with".to_owned());
    }
    let sum: i64 = told.items.iter().map(|item| item.unit_amount * i64::from(item.quantity)).sum();
    if sum != order.total_amount {
        return Err(format!("its lines come to {sum}, its total is {}", order.total_amount));
    }
    Ok(())
}
