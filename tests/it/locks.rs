//! Locks in Redis: they save work, and never more than one holder gives one back.

use std::time::Duration;

use shoal::platform::locks::Locks;

use crate::support::{Fleet, until};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn one_holds_a_lock_and_the_next_has_a_greater_number() {
    let fleet = Fleet::of(2).start().await;
    let locks = |replica: usize| Locks::new(fleet.replicas[replica].app.redis.clone());
    let first = locks(0).acquire("work", LONG).await.unwrap().expect("nobody has it");
    assert!(locks(1).acquire("work", LONG).await.unwrap().is_none());
    assert!(locks(0).acquire("work", LONG).await.unwrap().is_none(), "not twice either");
    let other = locks(1).acquire("other work", LONG).await.unwrap().expect("another lock");
    let fence = first.fence;
    assert!(first.release().await.unwrap());
    let second = locks(1).acquire("work", LONG).await.unwrap().expect("it was given back");
    assert!(second.fence > fence);
    assert!(other.release().await.unwrap());
}

#[tokio::test]
async fn a_lock_ends_by_itself_and_one_that_lost_it_gives_nothing_back() {
    let fleet = Fleet::of(1).start().await;
    let locks = Locks::new(fleet.app().redis.clone());
    let slow = locks.acquire("work", SHORT).await.unwrap().expect("nobody has it");
    // As after a freeze that it knows nothing of.
    let mut next = None;
    until(async || {
        next = locks.acquire("work", LONG).await.unwrap();
        next.is_some()
    })
    .await;
    let next = next.unwrap();
    assert!(next.fence > slow.fence);
    assert!(!slow.renew(LONG).await.unwrap());
    assert!(!slow.release().await.unwrap());
    assert!(locks.acquire("work", LONG).await.unwrap().is_none(), "the other one still has it");
    assert!(next.renew(LONG).await.unwrap());
    assert!(next.release().await.unwrap());
}

#[tokio::test]
async fn a_renewed_lock_lasts() {
    let fleet = Fleet::of(1).start().await;
    let locks = Locks::new(fleet.app().redis.clone());
    // Long enough to renew it in time.
    let held = locks.acquire("work", Duration::from_secs(20)).await.unwrap().unwrap();
    assert!(held.renew(SHORT).await.unwrap());
    until(async || locks.acquire("work", LONG).await.unwrap().is_some()).await;
    let other = locks.acquire("other", Duration::from_secs(20)).await.unwrap().unwrap();
    assert!(other.renew(LONG).await.unwrap());
    let left: i64 = fleet
        .app()
        .redis
        .run(shoal::platform::redis::cmd("PTTL").arg(fleet.app().redis.key("{lock:other}")))
        .await
        .unwrap();
    assert!(left > 20_000, "{left}");
}

#[tokio::test]
async fn a_flushed_or_stopped_redis_forgets_locks_and_says_so() {
    let mut fleet = Fleet::of(1).own_redis().start().await;
    let locks = Locks::new(fleet.app().redis.clone());
    let held = locks.acquire("work", LONG).await.unwrap().unwrap();
    fleet.flush_redis().await;
    // Why they are not for correctness: two think that they have it.
    let second = locks.acquire("work", LONG).await.unwrap().expect("nobody knows of the first");
    assert!(!held.release().await.unwrap());
    fleet.redis.as_mut().unwrap().process().kill();
    assert!(locks.acquire("work", LONG).await.is_err());
    assert!(second.renew(LONG).await.is_err());
}
