//! What a payment is made of.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(super) enum Status {
    /// The provider was asked, or is about to be.
    Charging,
    Captured,
    Declined,
    /// The order was cancelled: whatever was taken is to be given back.
    Voiding,
    Voided,
}

/// A payment as stored.
#[derive(Debug)]
pub(super) struct Payment {
    pub order_id: Uuid,
    pub status: Status,
    pub amount: i64,
    pub currency: String,
    pub reason: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// What the provider says of a charge.
#[derive(Debug)]
pub(super) enum Verdict {
    Captured {
        /// None if there was nothing to charge.
        charge_id: Option<String>,
    },
    Declined {
        reason: Option<String>,
    },
}

/// A payment as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PaymentResponse {
    pub order_id: Uuid,
    pub status: Status,
    /// In the currency's minor unit.
    pub amount: i64,
    pub currency: String,
    /// Why it was declined, as the provider says.
    pub reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl From<Payment> for PaymentResponse {
    fn from(payment: Payment) -> Self {
        Self {
            order_id: payment.order_id,
            status: payment.status,
            amount: payment.amount,
            currency: payment.currency,
            reason: payment.reason,
            created_at: payment.created_at,
            updated_at: payment.updated_at,
        }
    }
}
