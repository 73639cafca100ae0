//! Wakes the workers of the fleet when there is something to do. Only to be fast: a worker that
//! does not hear looks for itself before long.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::platform::{
    bell::Bell,
    redis::{Redis, cmd},
    shutdown::Tasks,
};

/// How often the connection is asked whether it is one, and how long it may think about it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_WAIT: Duration = Duration::from_millis(500);

/// Between two attempts to subscribe.
const RETRY: Duration = Duration::from_millis(250);

fn channel(redis: &Redis) -> String {
    redis.key("wake")
}

/// Tells all workers whenever `bell` is rung in this process. Many rings while one message is
/// under way become one, so that no load makes this a burden.
pub fn tell(bell: &Bell, redis: &Redis, tasks: &Tasks) {
    let (mut rings, redis, stopping) = (bell.listen(), redis.clone(), tasks.stopping());
    tasks.spawn(async move {
        let message = cmd("PUBLISH").arg(channel(&redis)).arg("").take();
        let tell = async {
            loop {
                rings.rung().await;
                // Without Redis the workers look for themselves.
                let _ = redis.run::<()>(&message).await;
            }
        };
        tokio::select! { () = tell => {}, () = stopping => {} }
    });
}

/// Rings `bell` whenever any process of the fleet tells of work. Runs until it is dropped.
pub(super) async fn hear(redis: &Redis, bell: &Bell) {
    loop {
        if let Err(error) = listen(redis, bell).await {
            tracing::debug!(%error, "not hearing of work: looking for it at every poll");
        }
        sleep(RETRY).await;
    }
}

async fn listen(redis: &Redis, bell: &Bell) -> anyhow::Result<()> {
    let messages = redis.subscribe(&channel(redis)).await?;
    // Something may have been told before.
    bell.ring();
    let (mut sink, mut messages) = messages.split();
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(_) => bell.ring(),
                None => anyhow::bail!("the connection broke"),
            },
            _ = pings.tick() => timeout(PING_WAIT, sink.ping::<()>()).await??,
        }
    }
}
