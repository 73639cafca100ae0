//! Hears of evictions and passes them on to the near caches; repeats those that Redis missed.

use std::{collections::VecDeque, time::Duration};

use futures::StreamExt;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{Caches, eviction::Repair};

/// How often the connection is asked whether it is one, and how long it may think about it.
/// Copies outlive a connection that fell silent by no more than both together.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_WAIT: Duration = Duration::from_millis(500);

/// Between two attempts to subscribe, or to repeat evictions.
const RETRY: Duration = Duration::from_millis(250);

/// Runs until it is dropped.
pub(super) async fn listen(caches: &Caches) {
    loop {
        if let Err(error) = hear(caches).await {
            tracing::debug!(%error, "not hearing of evictions: the near caches are not used");
        }
        caches.listen(false);
        sleep(RETRY).await;
    }
}

async fn hear(caches: &Caches) -> anyhow::Result<()> {
    let messages = caches.redis.subscribe(&caches.store.channel).await?;
    // Whatever was missed until here is gone with the copies.
    caches.listen(true);
    let (mut sink, mut messages) = messages.split();
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => evict(caches, &message.get_payload::<String>()?),
                None => anyhow::bail!("the connection broke"),
            },
            _ = pings.tick() => timeout(PING_WAIT, sink.ping::<()>()).await??,
        }
    }
}

/// `name:key in hexadecimal`, or `name:*` for all there are.
fn evict(caches: &Caches, message: &str) {
    let Some((name, key)) = message.split_once(':') else { return };
    match (caches.near(name), u128::from_str_radix(key, 16)) {
        (Some(near), Ok(key)) => near.evict(key),
        (Some(near), Err(_)) => near.clear(),
        (None, _) => {}
    }
}

/// Runs until it is dropped.
pub(super) async fn repair(mut repairs: mpsc::Receiver<Repair>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match repairs.recv().await {
                Some(repair) => waiting.push_back(repair),
                None => return,
            }
        }
        while let Ok(repair) = repairs.try_recv() {
            waiting.push_back(repair);
        }
        while let Some(repair) = waiting.front() {
            if !repair.retry().await {
                sleep(RETRY).await;
                break;
            }
            waiting.pop_front();
        }
    }
}
