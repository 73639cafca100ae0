//! What is said to the payment provider. Another provider is another version of this file.
//!
//! - `POST charges` `{reference, amount, currency}` with the order's id as `reference` and as
//!   `Idempotency-Key` takes the money once, and answers what has become of it as often as it is
//!   asked: `{id, reference, amount, currency, status, reason}`.
//! - `POST charges/{reference}/void` gives back what was taken for the reference, and refuses to
//!   take anything for it from then on.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::{Payment, Verdict};
use crate::platform::{
    jobs::Failure,
    remote_api::{Answer, Call},
};

/// Characters of a reason that are kept.
const LONGEST_REASON: usize = 200;

#[derive(Serialize)]
struct NewCharge<'a> {
    reference: Uuid,
    amount: i64,
    currency: &'a str,
}

#[derive(Deserialize)]
struct Charge {
    id: String,
    reference: Uuid,
    amount: i64,
    currency: String,
    status: ChargeStatus,
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChargeStatus {
    Captured,
    Declined,
    Voided,
    /// Not decided yet, or something that this version does not know: to be asked again.
    #[serde(other)]
    Other,
}

/// Charges for an order, at most once however often it is called.
///
/// # Errors
/// There is no word on it: to be tried again.
pub(super) async fn charge(call: Call<'_>, payment: &Payment) -> Result<Verdict, Failure> {
    if payment.amount == 0 {
        return Ok(Verdict::Captured { charge_id: None });
    }
    let Payment { order_id, amount, ref currency, .. } = *payment;
    let key = order_id.to_string();
    let body = NewCharge { reference: order_id, amount, currency };
    let charge = read(&call.post(&["charges"], &key, &body).await?, order_id)?;
    if (charge.amount, &charge.currency) != (amount, currency) {
        return Err(Failure::retry("the provider speaks of another amount"));
    }
    match charge.status {
        ChargeStatus::Captured => Ok(Verdict::Captured { charge_id: Some(clean(&charge.id)) }),
        ChargeStatus::Declined => {
            Ok(Verdict::Declined { reason: charge.reason.as_deref().map(clean) })
        }
        ChargeStatus::Voided => Ok(Verdict::Declined { reason: Some("voided".to_owned()) }),
        ChargeStatus::Other => Err(Failure::retry("the provider has not decided yet")),
    }
}

/// Gives back what was charged for an order, and refuses what would be.
///
/// # Errors
/// There is no word on it: to be tried again.
pub(super) async fn void(call: Call<'_>, order_id: Uuid) -> Result<(), Failure> {
    let reference = order_id.to_string();
    let body = serde_json::json!({ "reference": reference });
    let key = format!("{reference}-void");
    let answer = call.post(&["charges", &reference, "void"], &key, &body).await?;
    match read(&answer, order_id)?.status {
        ChargeStatus::Voided => Ok(()),
        status => Err(Failure::retry(format!("the provider says {status:?}, not voided"))),
    }
}

/// A status other than 2xx is a mistake in our settings or the provider's, which a person can
/// mend: no reason to take an order for unpaid. Nor is the answer to somebody else's question.
fn read(answer: &Answer, order_id: Uuid) -> Result<Charge, Failure> {
    if !answer.status.is_success() {
        return Err(Failure::retry(format!("the provider answered {}", answer.status.as_u16())));
    }
    let charge: Charge = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::retry(format!("the provider's answer is no charge: {error}")))?;
    if charge.reference == order_id {
        Ok(charge)
    } else {
        Err(Failure::retry("the provider speaks of another order"))
    }
}

/// Of what the provider says only what a column takes.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect()
}
