//! The states of an order and the moves between them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Status {
    Pending,
    Paid,
    Shipped,
    Completed,
    Cancelled,
    PaymentFailed,
}

impl Status {
    pub fn can_become(self, next: Self) -> bool {
        use Status::{Cancelled, Completed, Paid, PaymentFailed, Pending, Shipped};
        matches!(
            (self, next),
            (Pending, Paid | PaymentFailed | Cancelled)
                | (Paid, Shipped | Cancelled)
                | (Shipped, Completed)
        )
    }

    /// As the column and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::PaymentFailed => "payment_failed",
        }
    }

    /// The event that tells of an order having become this.
    pub(super) fn event(self) -> &'static str {
        match self {
            Self::Pending => "order.created",
            Self::Paid => "order.paid",
            Self::Shipped => "order.shipped",
            Self::Completed => "order.completed",
            Self::Cancelled => "order.cancelled",
            Self::PaymentFailed => "order.payment_failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{self, Cancelled, Completed, Paid, PaymentFailed, Pending, Shipped};

    #[test]
    fn moves_only_along_the_arrows() {
        let all = [Pending, Paid, Shipped, Completed, Cancelled, PaymentFailed];
        let arrows = [
            (Pending, Paid),
            (Pending, PaymentFailed),
            (Pending, Cancelled),
            (Paid, Shipped),
            (Paid, Cancelled),
            (Shipped, Completed),
        ];
        for from in all {
            for to in all {
                let allowed = Status::can_become(from, to);
                assert_eq!(allowed, arrows.contains(&(from, to)), "{from:?} to {to:?}");
            }
        }
    }
}
