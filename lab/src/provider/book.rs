//! The provider's books.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Amounts that end so are declined, for a test or a person to ask for it.
const DECLINED_CENTS: i64 = 13;

/// What the caller wants.
#[derive(Debug, Deserialize)]
pub(super) struct NewCharge {
    pub(super) reference: Uuid,
    pub(super) amount: i64,
    pub(super) currency: String,
}

/// What has become of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The money was taken.
    Captured,
    /// It was not, and will not be.
    Declined,
    /// It was given back, or never taken.
    Voided,
}

/// A charge in the books.
#[derive(Clone, Debug)]
pub struct Charge {
    /// In the currency's minor unit.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// What has become of it.
    pub status: Status,
    /// How often it was asked for.
    pub asked: usize,
    reference: Uuid,
}

#[derive(Default)]
pub(super) struct Book {
    /// By idempotency key.
    charges: BTreeMap<String, Charge>,
    void: BTreeSet<Uuid>,
    pub(super) requests: u64,
}

impl Book {
    /// Takes the money, once per key: the answer.
    pub(super) fn charge(&mut self, key: &str, new: &NewCharge) -> Value {
        let NewCharge { reference, amount, ref currency } = *new;
        let status = if self.void.contains(&reference) {
            Status::Voided
        } else if amount % 100 == DECLINED_CENTS {
            Status::Declined
        } else {
            Status::Captured
        };
        let charge = self.charges.entry(key.to_owned()).or_insert_with(|| Charge {
            amount,
            currency: currency.clone(),
            status,
            asked: 0,
            reference,
        });
        charge.asked += 1;
        answer(key, charge)
    }

    /// Gives back what was taken for a reference, and refuses what will be: the answer.
    pub(super) fn void(&mut self, reference: Uuid) -> Value {
        self.void.insert(reference);
        for charge in self.charges.values_mut().filter(|charge| charge.reference == reference) {
            charge.status = Status::Voided;
        }
        let (amount, currency) = (0, "XXX".to_owned());
        let void = Charge { amount, currency, status: Status::Voided, asked: 1, reference };
        answer("void", &void)
    }

    pub(super) fn charges(&self, reference: Uuid) -> Vec<Charge> {
        let of = |charge: &&Charge| charge.reference == reference;
        self.charges.values().filter(of).cloned().collect()
    }

    pub(super) fn is_void(&self, reference: Uuid) -> bool {
        self.void.contains(&reference)
    }
}

fn answer(key: &str, charge: &Charge) -> Value {
    let Charge { amount, currency, status, reference, .. } = charge;
    let reason = (*status == Status::Declined).then_some("insufficient funds");
    json!({ "id": format!("ch_{key}"), "reference": reference, "amount": amount,
        "currency": currency, "status": status, "reason": reason })
}
