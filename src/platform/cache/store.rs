//! The entries in Redis: each look-up, fill, burial and settlement is one script, so that no two
//! of them can interleave.

use std::{fmt, time::Duration};

use bytes::Bytes;
use deadpool_redis::redis::{FromRedisValue, Value, cmd, from_redis_value};

use super::entry::Entry;
use crate::platform::{
    db::Lsn,
    redis::{Redis, Script, Unavailable},
};

/// How long a load may take: longer than a statement may. Should its process die, the others wait
/// no longer than this.
pub(in crate::platform) const LEASE: Duration = Duration::from_secs(4);

/// After this long a writer that has buried an entry has either committed or never will.
pub(in crate::platform) const BURIAL: Duration = Duration::from_secs(30);

/// How long the position of a write is remembered: longer than any load that began before it.
const SETTLED: Duration = Duration::from_secs(3_600);

/// Redis with the scripts.
pub(super) struct Store {
    redis: Redis,
    look_up: Script,
    fill: Script,
    release: Script,
    bury: Script,
    settle: Script,
    /// Where evictions are announced.
    pub(super) channel: String,
}

/// Where one entry is kept, and the lease to load it.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    entry: String,
    lease: String,
}

/// What a look-up says.
pub(super) enum LookUp {
    /// A writer is about to change it: neither read nor fill.
    Closed,
    /// Nothing is there, and the caller may load it. What it loads has to contain `at_least`.
    Leased {
        at_least: Lsn,
    },
    /// Nothing is there, and somebody else loads it.
    Awaited,
    Held(Held),
}

pub(super) struct Held {
    pub(super) entry: Option<Entry>,
    pub(super) state: State,
    /// Zero once it is stale.
    pub(super) fresh_for: Duration,
    pub(super) lsn: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Fresh,
    /// Fresh or not, the caller holds the lease to load it anew.
    Refresh,
    Stale,
}

/// A writer has buried something and not settled it yet.
pub(super) struct WriteUnderWay;

/// What a fill brings.
pub(super) struct Fill<'e> {
    pub(super) entry: Option<&'e Entry>,
    /// Every commit up to here is in it.
    pub(super) lsn: Lsn,
    pub(super) fresh: Duration,
    pub(super) life: Duration,
    pub(super) cost: Duration,
}

impl Store {
    pub(super) fn new(redis: Redis) -> Self {
        Self {
            look_up: Script::new(include_str!("look_up.lua")),
            fill: Script::new(include_str!("fill.lua")),
            release: Script::new(include_str!("release.lua")),
            bury: Script::new(include_str!("bury.lua")),
            settle: Script::new(include_str!("settle.lua")),
            channel: redis.key("evictions"),
            redis,
        }
    }

    /// The slot of `name`. Both keys share a hash tag, and with it a node of a cluster.
    pub(super) fn slot(&self, name: impl fmt::Display) -> Slot {
        let entry = self.redis.key(format_args!("cache:{{{name}}}"));
        Slot { lease: format!("{entry}:lease"), entry }
    }

    /// `early`: by how many costs of a load to refresh before the entry is stale.
    pub(super) async fn look_up(
        &self,
        slot: &Slot,
        token: &str,
        early: f64,
    ) -> Result<LookUp, Unavailable> {
        let call = self.look_up.call(&[&slot.entry, &slot.lease]);
        let call = call.arg(token).arg(LEASE.as_millis() as u64).arg(early);
        let answer: Vec<Value> = self.redis.call(&call).await?;
        read(answer).ok_or(Unavailable)
    }

    /// Whether it is kept.
    pub(super) async fn fill(
        &self,
        slot: &Slot,
        token: &str,
        fill: &Fill<'_>,
    ) -> Result<bool, Unavailable> {
        let (meta, body) = match fill.entry {
            // A body is never empty, so this stands for "there is none".
            None => ("", &[][..]),
            Some(entry) => (entry.meta.as_str(), &entry.body[..]),
        };
        let call = self.fill.call(&[&slot.entry, &slot.lease]);
        let call = call.arg(token).arg(fill.lsn.sortable()).arg(fill.fresh.as_millis() as u64);
        let call = call.arg(fill.life.as_millis() as u64).arg(fill.cost.as_millis() as u64);
        self.redis.call(&call.arg(meta).arg(body)).await
    }

    /// Gives a lease back, so that another one may load at once.
    pub(super) async fn release(&self, slot: &Slot, token: &str) {
        // Else it ends by itself.
        let _ = self.redis.call::<()>(&self.release.call(&[&slot.lease]).arg(token)).await;
    }

    pub(super) async fn bury(
        &self,
        slot: &Slot,
        writer: &str,
        message: &str,
    ) -> Result<(), Unavailable> {
        let call = self.bury.call(&[&slot.entry, &slot.lease]);
        let call = call.arg(writer).arg(BURIAL.as_millis() as u64);
        self.redis.call(&call.arg(&self.channel).arg(message)).await
    }

    /// The position of the last write that was settled, `Err` while one is under way, `None` if
    /// nothing is known.
    pub(super) async fn settled(
        &self,
        slot: &Slot,
    ) -> Result<Option<Result<Lsn, WriteUnderWay>>, Unavailable> {
        let mut get = cmd("HMGET");
        get.arg(&slot.entry).arg("pending").arg("lsn");
        let (pending, lsn): (Option<String>, Option<String>) = self.redis.run(&get).await?;
        if pending.is_some() {
            return Ok(Some(Err(WriteUnderWay)));
        }
        Ok(lsn.as_deref().and_then(Lsn::from_sortable).map(Ok))
    }

    pub(super) async fn settle(
        &self,
        slot: &Slot,
        writer: &str,
        lsn: Lsn,
        message: &str,
    ) -> Result<(), Unavailable> {
        let call = self.settle.call(&[&slot.entry, &slot.lease]);
        let call = call.arg(writer).arg(lsn.sortable()).arg(SETTLED.as_millis() as u64);
        self.redis.call(&call.arg(&self.channel).arg(message)).await
    }
}

fn read(answer: Vec<Value>) -> Option<LookUp> {
    let mut items = answer.into_iter();
    let state: String = take(&mut items)?;
    if state == "closed" {
        return Some(LookUp::Closed);
    }
    let meta: String = take(&mut items)?;
    let body: Bytes = take(&mut items)?;
    let fresh_for: i64 = take(&mut items)?;
    let lsn: String = take(&mut items)?;
    let lsn = Lsn::from_sortable(&lsn).unwrap_or_default();
    let state = match state.as_str() {
        "load" => return Some(LookUp::Leased { at_least: lsn }),
        "wait" => return Some(LookUp::Awaited),
        "fresh" => State::Fresh,
        "refresh" => State::Refresh,
        _ => State::Stale,
    };
    let entry = (!body.is_empty()).then_some(Entry { meta, body });
    let fresh_for = Duration::from_millis(fresh_for.try_into().unwrap_or(0));
    Some(LookUp::Held(Held { entry, state, fresh_for, lsn }))
}

fn take<T: FromRedisValue>(items: &mut impl Iterator<Item = Value>) -> Option<T> {
    items.next().and_then(|value| from_redis_value(value).ok())
}
