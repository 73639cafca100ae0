//! Jobs of payments.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{provider, service};
use crate::{
    platform::{
        events::Event,
        jobs::{self, Failure, Job, Lease, Queue, Registry, jittered},
    },
    state::AppState,
};

/// They mostly wait for the provider, and hold no connection meanwhile.
const QUEUE: Queue = Queue { name: "payments", concurrency: 32 };

/// With the usual delays, more than a day: a provider that is away for a night costs no order.
const MAX_ATTEMPTS: i16 = 110;

/// More than a call may take, by default six times over.
const TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(jobs::LONGEST_CALL_MS < TIMEOUT.as_secs() * 1_000);

/// How long a worker that knows of no provider leaves an order to others. As long as an operator
/// may well take to see it.
const LEFT_ALONE: Duration = Duration::from_secs(60);

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new().once(charge_new).once(void_cancelled)
}

fn charge_new(event: &Event) -> Option<Charge> {
    (event.kind == "order.created").then_some(Charge { order_id: event.subject_id })
}

fn void_cancelled(event: &Event) -> Option<Void> {
    (event.kind == "order.cancelled").then_some(Void { order_id: event.subject_id })
}

/// Charges for an order, until there is a word on it or the order is no longer to be paid.
#[derive(Serialize, Deserialize)]
struct Charge {
    order_id: Uuid,
}

impl Job for Charge {
    type State = AppState;

    const KIND: &'static str = "payments.charge";
    const QUEUE: &'static Queue = &QUEUE;
    const MAX_ATTEMPTS: i16 = MAX_ATTEMPTS;
    const TIMEOUT: Duration = TIMEOUT;

    async fn run(self, app: &AppState, lease: &Lease) -> Result<(), Failure> {
        let Some(api) = &app.payments else {
            return leave_to_others(app, self.order_id).await;
        };
        let call = api.admit()?;
        let Some(payment) = service::begin(app, self.order_id).await? else {
            return Ok(());
        };
        let verdict = provider::charge(call, &payment).await?;
        service::settle(app, lease, self.order_id, &verdict).await
    }
}

/// What a worker does about a charge that knows of no provider. Where nothing was ever charged,
/// payments are off, and somebody else marks orders as paid. Else this worker alone was set up
/// wrongly, and must not lose the charges that it happens to be given.
async fn leave_to_others(app: &AppState, order_id: Uuid) -> Result<(), Failure> {
    if !service::is_charged_by_others(app, order_id).await? {
        return Ok(());
    }
    tracing::warn!(order = %order_id, "left to other workers: SHOAL_PAYMENTS_URL is not set here");
    Err(Failure::Postpone(jittered(LEFT_ALONE)))
}

/// Gives back what was charged for an order that was cancelled, and sees to it that nothing will
/// be.
#[derive(Serialize, Deserialize)]
struct Void {
    order_id: Uuid,
}

impl Job for Void {
    type State = AppState;

    const KIND: &'static str = "payments.void";
    const QUEUE: &'static Queue = &QUEUE;
    const MAX_ATTEMPTS: i16 = MAX_ATTEMPTS;
    const TIMEOUT: Duration = TIMEOUT;

    async fn run(self, app: &AppState, lease: &Lease) -> Result<(), Failure> {
        let Some(amount) = service::begin_void(app, self.order_id).await? else {
            return Ok(());
        };
        if amount > 0 {
            let Some(api) = &app.payments else {
                tracing::warn!(order = %self.order_id, "SHOAL_PAYMENTS_URL is not set: not given back");
                return Err(Failure::Postpone(jittered(LEFT_ALONE)));
            };
            provider::void(api.admit()?, self.order_id).await?;
        }
        service::finish_void(app, lease, self.order_id).await
    }
}
