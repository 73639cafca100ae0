//! The list of the fleet in Redis: a lease for each process, by Redis' own clock.
//!
//! Two keys in one slot: a sorted set of when leases end, and a hash of what their holders say of
//! themselves. To renew is one round trip and so is to list, however many there are; whoever renews
//! sweeps what has run out.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::Member;
use crate::platform::redis::{Redis, Script, Unavailable};

pub(super) struct Leases {
    redis: Redis,
    keys: [String; 2],
    renew: Script,
    list: Script,
    end: Script,
}

impl Leases {
    pub(super) fn new(redis: Redis) -> Self {
        Self {
            keys: ["{fleet}:leases", "{fleet}:members"].map(|name| redis.key(name)),
            redis,
            renew: Script::new(include_str!("renew.lua")),
            list: Script::new(include_str!("list.lua")),
            end: Script::new(include_str!("end.lua")),
        }
    }

    /// Lists `member` for this long from now: how many are listed.
    ///
    /// # Errors
    /// Redis is away.
    pub(super) async fn renew(&self, member: &Member, lease: Duration) -> Result<i64, Unavailable> {
        // Words and numbers only: this cannot fail.
        let says = serde_json::to_string(member).unwrap_or_default();
        let millis = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let call = self.renew.call(&self.keys()).arg(id(member.id)).arg(millis).arg(says);
        self.redis.call(&call).await
    }

    /// Everybody with a lease and when it ends, the longest running first.
    ///
    /// # Errors
    /// Redis is away.
    pub(super) async fn list(&self) -> Result<Vec<(Member, OffsetDateTime)>, Unavailable> {
        let listed: Vec<(i64, String)> = self.redis.call(&self.list.call(&self.keys())).await?;
        let read = |(ends_at, says): (i64, String)| {
            let ends_at =
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(ends_at) * 1_000_000);
            // Another version may speak of itself in other words.
            let member = serde_json::from_str(&says).inspect_err(
                |error| tracing::warn!(%error, "a member of the fleet is not understood"),
            );
            Some((member.ok()?, ends_at.ok()?))
        };
        let mut members: Vec<_> = listed.into_iter().filter_map(read).collect();
        // Ids begin with the time they were made at.
        members.sort_by_key(|(member, _): &(Member, _)| member.id);
        Ok(members)
    }

    /// Takes a process off the list.
    ///
    /// # Errors
    /// Redis is away: the lease ends by itself.
    pub(super) async fn end(&self, member: Uuid) -> Result<(), Unavailable> {
        self.redis.call(&self.end.call(&self.keys()).arg(id(member))).await
    }

    fn keys(&self) -> [&str; 2] {
        self.keys.each_ref().map(String::as_str)
    }
}

fn id(id: Uuid) -> String {
    id.hyphenated().to_string()
}
