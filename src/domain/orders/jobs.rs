//! What becomes of orders without anybody asking.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::service;
use crate::{
    platform::jobs::{Failure, Job, Lease, Queue, Registry},
    state::AppState,
};

const ORDERS: Queue = Queue { name: "orders", concurrency: 2 };

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new().schedule("orders.expire", Duration::from_secs(60), || ExpireOrders {})
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
