//! What an order is made of.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::status::Status;
use crate::platform::{
    events::Event,
    http::error::{ApiError, FieldError},
};

/// Lines an order may have.
const MAX_LINES: usize = 50;

/// Units of one product an order may have.
const MAX_QUANTITY: i32 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "i64")]
#[schema(value_type = i32, minimum = 1, maximum = 1000)]
pub(super) struct Quantity(i32);

impl TryFrom<i64> for Quantity {
    type Error = String;

    fn try_from(value: i64) -> Result<Self, String> {
        match i32::try_from(value) {
            Ok(value) if (1..=MAX_QUANTITY).contains(&value) => Ok(Self(value)),
            _ => Err(format!("must be from 1 to {MAX_QUANTITY}")),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateOrder {
    /// 1 to 50. A product that is named twice is ordered once, with both quantities.
    #[schema(min_items = 1, max_items = 50)]
    pub items: Vec<CreateOrderItem>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateOrderItem {
    pub product_id: Uuid,
    pub quantity: Quantity,
}

/// The lines of an order with each product once, and where in the request it was named first.
#[derive(Debug, Default)]
pub(super) struct Basket {
    pub(super) product_ids: Vec<Uuid>,
    pub(super) quantities: Vec<i32>,
    named_at: Vec<usize>,
}

impl Basket {
    /// # Errors
    /// 422 for no or too many items, or too much of one.
    pub(super) fn new(input: &CreateOrder) -> Result<Self, ApiError> {
        if input.items.is_empty() || input.items.len() > MAX_LINES {
            let detail = format!("must have 1 to {MAX_LINES} items");
            return Err(ApiError::invalid("/items", "invalid_length", detail));
        }
        let mut basket = Self::default();
        for (index, item) in input.items.iter().enumerate() {
            let Quantity(quantity) = item.quantity;
            // At most 50 lines: a scan is faster than a map.
            match basket.product_ids.iter().position(|id| *id == item.product_id) {
                Some(line) => basket.quantities[line] += quantity,
                None => {
                    basket.product_ids.push(item.product_id);
                    basket.quantities.push(quantity);
                    basket.named_at.push(index);
                }
            }
        }
        let too_much = basket.errors(|line| {
            (basket.quantities[line] > MAX_QUANTITY)
                .then(|| ("quantity", "invalid", format!("adds up to more than {MAX_QUANTITY}")))
        });
        if too_much.is_empty() { Ok(basket) } else { Err(ApiError::validation(too_much)) }
    }

    /// Field errors for the lines that `check` objects to.
    pub(super) fn errors(
        &self,
        check: impl Fn(usize) -> Option<(&'static str, &'static str, String)>,
    ) -> Vec<FieldError> {
        let line_error = |line| {
            let (field, code, detail) = check(line)?;
            let pointer = format!("/items/{}/{field}", self.named_at[line]);
            Some(FieldError { pointer, code, detail })
        };
        (0..self.product_ids.len()).filter_map(line_error).collect()
    }
}

/// An order that is to be.
pub(super) struct NewOrder {
    pub customer_id: Uuid,
    pub total_amount: i64,
    pub currency: String,
    pub items: Vec<OrderItem>,
}

/// An order as stored, with its lines.
#[derive(Debug)]
pub(super) struct Order {
    pub id: Uuid,
    pub customer_id: Uuid,
    pub status: Status,
    pub items: Vec<OrderItem>,
    pub total_amount: i64,
    pub currency: String,
    pub version: i32,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// What is to be paid for an order.
#[derive(Debug)]
pub struct Bill {
    pub order_id: Uuid,
    pub customer_id: Uuid,
    /// In the currency's minor unit.
    pub amount: i64,
    pub currency: String,
}

/// One line of an order. Name and price are those of the moment of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) struct OrderItem {
    pub product_id: Uuid,
    pub name: String,
    pub quantity: i32,
    /// In the order's currency, minor unit.
    pub unit_amount: i64,
}

/// An order as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderResponse {
    pub id: Uuid,
    pub status: Status,
    pub items: Vec<OrderItem>,
    /// In the currency's minor unit.
    pub total_amount: i64,
    pub currency: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl From<Order> for OrderResponse {
    fn from(order: Order) -> Self {
        Self {
            id: order.id,
            status: order.status,
            items: order.items,
            total_amount: order.total_amount,
            currency: order.currency,
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OrderFilter {
    #[param(inline)]
    pub status: Option<Status>,
}

/// One step in the life of an order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderEventResponse {
    pub id: Uuid,
    #[schema(example = "order.created")]
    pub r#type: String,
    /// 1, 2, 3, ...
    pub sequence: i32,
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
    /// Of the request that caused it.
    pub request_id: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl From<Event> for OrderEventResponse {
    fn from(event: Event) -> Self {
        Self {
            id: event.id,
            r#type: event.kind,
            sequence: event.sequence,
            data: event.data,
            request_id: event.request_id,
            created_at: event.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_what_is_named_twice() {
        let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
        let order = |items: &[(Uuid, i32)]| CreateOrder {
            items: items
                .iter()
                .map(|(product_id, quantity)| CreateOrderItem {
                    product_id: *product_id,
                    quantity: Quantity(*quantity),
                })
                .collect(),
        };
        let basket = Basket::new(&order(&[(a, 1), (b, 2), (a, 3)])).unwrap();
        assert_eq!(basket.product_ids, [a, b]);
        assert_eq!(basket.quantities, [4, 2]);
        assert_eq!(basket.named_at, [0, 1]);
        for bad in [&[][..], &[(a, 1); 51], &[(a, 600), (a, 600)]] {
            assert!(Basket::new(&order(bad)).is_err());
        }
    }
}
