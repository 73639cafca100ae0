//! What the catalogue shows of the stock, and when that changes.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{cached, queries};
use crate::{
    platform::{
        db::Tx,
        events::{self, NewEvent},
    },
    state::AppState,
};

/// At and below this many units a product is said to run low.
const LOW_STOCK: i64 = 10;

/// How much there is, as far as the public may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(in crate::domain) enum Availability {
    InStock,
    Low,
    OutOfStock,
}

impl Availability {
    pub(super) fn of(on_hand: i64) -> Self {
        match on_hand {
            ..=0 => Self::OutOfStock,
            1..=LOW_STOCK => Self::Low,
            _ => Self::InStock,
        }
    }

    /// As the column and the API spell it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InStock => "in_stock",
            Self::Low => "low",
            Self::OutOfStock => "out_of_stock",
        }
    }
}

/// A change of one product's stock, as its locked row saw it.
#[derive(Debug, Clone, Copy)]
pub struct StockChange {
    pub product_id: Uuid,
    pub before: i64,
    pub after: i64,
}

impl StockChange {
    fn crossed_into(&self) -> Option<Availability> {
        let now = Availability::of(self.after);
        (now != Availability::of(self.before)).then_some(now)
    }
}

/// Brings the catalogue and its caches in line with `changes` of the same transaction, where a
/// threshold was crossed.
///
/// # Errors
/// The database refused.
pub async fn update_availability(
    app: &AppState,
    tx: &mut Tx,
    changes: impl IntoIterator<Item = StockChange>,
) -> Result<(), sqlx::Error> {
    let mut crossed: Vec<_> = changes
        .into_iter()
        .filter_map(|change| Some((change.product_id, change.crossed_into()?)))
        .collect();
    // In the order in which everybody locks products.
    crossed.sort_unstable_by_key(|(product_id, _)| *product_id);
    for (product_id, availability) in &crossed {
        let version = queries::set_availability(tx, *product_id, *availability).await?;
        let event = NewEvent {
            kind: "product.availability_changed",
            subject_id: *product_id,
            sequence: version,
            customer_id: None,
            data: &serde_json::json!({ "product_id": product_id, "availability": availability }),
        };
        events::emit(tx, &event)?;
    }
    let ids = crossed.into_iter().map(|(product_id, _)| product_id);
    cached::evict(tx, &app.product_cache, &app.catalogue_cache, ids);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crossed_threshold_shows() {
        let crossed = |before, after| {
            let product_id = Uuid::nil();
            StockChange { product_id, before, after }.crossed_into()
        };
        assert_eq!(crossed(100, 99), None);
        assert_eq!(crossed(11, 10), Some(Availability::Low));
        assert_eq!(crossed(10, 1), None);
        assert_eq!(crossed(1, 0), Some(Availability::OutOfStock));
        assert_eq!(crossed(0, 50), Some(Availability::InStock));
    }
}
