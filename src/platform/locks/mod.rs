//! Locks that the whole fleet sees, in Redis: only to keep two from doing the same work at the same
//! time, never for correctness.
//!
//! A holder that was frozen, or whose Redis was flushed or failed over, has lost its lock without
//! knowing. Whatever must not happen twice is therefore guarded in Postgres: by a row lock, a
//! constraint, or the lease of a job ([`super::jobs::Lease`]). The fencing number tells a later
//! holder from an earlier one, for what can compare it; it grows for as long as Redis keeps its
//! data, and begins anew after a flush.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::redis::{Redis, Script, Unavailable};

/// Cheap to clone.
#[derive(Clone)]
pub struct Locks(Arc<Shared>);

struct Shared {
    redis: Redis,
    acquire: Script,
    renew: Script,
    release: Script,
}

/// A lock that was held when this was made. Nobody gives it back on drop: it ends by itself.
pub struct Lock {
    shared: Arc<Shared>,
    key: String,
    /// Known to this holder alone, so that nobody else renews or releases the lock.
    token: String,
    /// Greater than that of every earlier holder.
    pub fence: u64,
}

impl Locks {
    pub fn new(redis: Redis) -> Self {
        Self(Arc::new(Shared {
            redis,
            acquire: Script::new(include_str!("acquire.lua")),
            renew: Script::new(include_str!("renew.lua")),
            release: Script::new(include_str!("release.lua")),
        }))
    }

    /// Takes the lock for `ttl`, or `None` if somebody else has it. Does not wait.
    ///
    /// # Errors
    /// Redis is away. Since a lock only saves work, the caller most likely goes on without.
    pub async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lock>, Unavailable> {
        let Shared { redis, acquire, .. } = &*self.0;
        let (key, counter) = (
            redis.key(format_args!("{{lock:{name}}}")),
            redis.key(format_args!("{{lock:{name}}}:fence")),
        );
        let token = Uuid::new_v4().simple().to_string();
        let call = acquire.call(&[&key, &counter]).arg(&token).arg(millis(ttl));
        let fence: Option<u64> = redis.call(&call).await?;
        Ok(fence.map(|fence| Lock { shared: self.0.clone(), key, token, fence }))
    }
}

impl Lock {
    /// Keeps the lock until `ttl` from now: `false` if it was lost.
    ///
    /// # Errors
    /// Redis is away: nothing is known.
    pub async fn renew(&self, ttl: Duration) -> Result<bool, Unavailable> {
        let Shared { redis, renew, .. } = &*self.shared;
        redis.call(&renew.call(&[&self.key]).arg(&self.token).arg(millis(ttl))).await
    }

    /// Gives the lock back: `false` if it was lost before.
    ///
    /// # Errors
    /// Redis is away: the lock ends by itself.
    pub async fn release(self) -> Result<bool, Unavailable> {
        let Shared { redis, release, .. } = &*self.shared;
        redis.call(&release.call(&[&self.key]).arg(&self.token)).await
    }
}

fn millis(ttl: Duration) -> u64 {
    // 0 would be refused.
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}
