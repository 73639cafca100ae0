//! The near tier: copies in this process, for seconds, evicted by push.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;

use super::entry::{Entry, contains};
use crate::platform::db::{Consistency, Lsn};

/// What a copy takes besides its texts, roughly.
const OVERHEAD_BYTES: usize = 200;

/// Evictions are counted by this many groups of keys, so that a copy that was on its way while
/// its key was evicted is not kept. A needless refusal costs one look into Redis.
const GROUPS: usize = 1024;

/// A copy of what Redis held.
pub(super) struct Copy {
    pub(super) entry: Option<Entry>,
    /// Every commit up to here is in it.
    pub(super) valid_at: Lsn,
    until: Instant,
}

/// Copies by cache and key. Cheap to clone.
#[derive(Clone)]
pub(super) struct Near {
    inner: Arc<Inner>,
}

struct Inner {
    copies: Cache<u128, Arc<Copy>>,
    life: Duration,
    /// Whether evictions reach this process. If not, nothing here may be served.
    is_listening: Arc<AtomicBool>,
    evictions: Vec<AtomicU64>,
}

/// How things stood before Redis was asked.
#[derive(Clone, Copy)]
pub(super) struct Snapshot {
    evictions: u64,
}

impl Near {
    pub(super) fn new(bytes: u64, life: Duration, is_listening: Arc<AtomicBool>) -> Self {
        let copies = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, copy: &Arc<Copy>| copy.bytes())
            .time_to_live(life)
            .build();
        let evictions = (0..GROUPS).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { copies, life, is_listening, evictions }) }
    }

    pub(super) fn get(&self, key: u128) -> Option<Arc<Copy>> {
        if !self.inner.is_listening.load(Ordering::Acquire) {
            return None;
        }
        // moka's clock is coarse; ours is not.
        self.inner.copies.get(&key).filter(|copy| Instant::now() < copy.until)
    }

    pub(super) fn snapshot(&self, key: u128) -> Snapshot {
        Snapshot { evictions: self.group(key).load(Ordering::Acquire) }
    }

    /// Keeps what Redis held after `before`, unless it was evicted meanwhile.
    pub(super) fn insert(
        &self,
        key: u128,
        before: Snapshot,
        entry: Option<Entry>,
        valid_at: Lsn,
        fresh: Duration,
    ) {
        let until = Instant::now() + fresh.min(self.inner.life);
        let copy = Arc::new(Copy { entry, valid_at, until });
        self.inner.copies.insert(key, copy);
        // Looked at afterwards: an eviction in between finds either the copy or this.
        if self.group(key).load(Ordering::Acquire) != before.evictions {
            self.inner.copies.invalidate(&key);
        }
    }

    pub(super) fn evict(&self, key: u128) {
        self.group(key).fetch_add(1, Ordering::AcqRel);
        self.inner.copies.invalidate(&key);
    }

    /// Evicts everything.
    pub(super) fn clear(&self) {
        for group in &self.inner.evictions {
            group.fetch_add(1, Ordering::AcqRel);
        }
        self.inner.copies.invalidate_all();
    }

    fn group(&self, key: u128) -> &AtomicU64 {
        &self.inner.evictions[key as usize % GROUPS]
    }
}

impl Copy {
    pub(super) fn serves(&self, consistency: Consistency) -> bool {
        contains(self.valid_at, consistency)
    }

    fn bytes(&self) -> u32 {
        let texts = self.entry.as_ref().map_or(0, |entry| entry.meta.len() + entry.body.len());
        u32::try_from(OVERHEAD_BYTES + texts).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    fn near() -> Near {
        Near::new(1 << 20, LONG, Arc::new(AtomicBool::new(true)))
    }

    #[test]
    fn what_was_on_its_way_while_its_key_was_evicted_is_not_kept() {
        let near = near();
        for evict in [|near: &Near| near.evict(7), Near::clear] {
            let before = near.snapshot(7);
            evict(&near);
            near.insert(7, before, None, Lsn(1), LONG);
            assert!(near.get(7).is_none());
        }
        let before = near.snapshot(7);
        // Another key is of no matter.
        near.evict(8);
        near.insert(7, before, None, Lsn(1), LONG);
        assert!(near.get(7).is_some());
    }
}
