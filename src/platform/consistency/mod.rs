//! Reading one's own writes, whichever replica answers.
//!
//! After a commit the position of the log becomes the user's: it is kept in Redis, where it never
//! goes back, and handed out as a signed `Consistency-Token`, for a client that wants to see its
//! writes without being logged in, or while Redis is away. A read then asks for a database that
//! has got that far ([`super::db::Db::read`]).

mod token;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::SecretString;
use tokio::time::sleep;
use uuid::Uuid;

use self::token::Signer;
pub use self::token::Token;
use super::{
    db::Lsn,
    redis::{Redis, Script, Unavailable},
    sessions::user_tag,
    shutdown::Tasks,
};

/// How long a position is remembered: far longer than a replica that is read from may lag.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// As many failures in a row make every replica of the API give Redis up.
const ATTEMPTS: usize = 3;

/// Positions that wait for Redis to come back. Those of further users are only in their tokens.
const MOST_UNSTORED: usize = 10_000;

/// Between two attempts to store them.
const RETRY: Duration = Duration::from_millis(250);

/// Keeps and hands out positions. Cheap to clone.
#[derive(Clone)]
pub struct Positions {
    redis: Redis,
    script: Arc<Script>,
    signer: Arc<Signer>,
    /// Positions that Redis did not take, until it does.
    unstored: Arc<Mutex<HashMap<Uuid, Lsn>>>,
    /// Whether there are any: looked at by every request of a user.
    has_unstored: Arc<AtomicBool>,
}

impl Positions {
    /// `secrets` sign the tokens: the first one now, the others did.
    pub fn new(redis: Redis, secrets: &[SecretString], tasks: &Tasks) -> Self {
        let positions = Self {
            redis,
            script: Arc::new(Script::new(include_str!("advance.lua"))),
            signer: Arc::new(Signer::new(secrets)),
            unstored: Arc::default(),
            has_unstored: Arc::default(),
        };
        let (repeating, stopping) = (positions.clone(), tasks.stopping());
        tasks.spawn(async move {
            tokio::select! { () = repeating.repeat() => {}, () = stopping => {} }
        });
        positions
    }

    /// Where Redis keeps the position of a user.
    pub fn key(&self, user_id: Uuid) -> String {
        key(&self.redis, user_id)
    }

    /// Moves a user's position forward. While Redis is away, reads go to the primary anyhow; so it
    /// is tried hard only while Redis is there and slow. What it does not take is repeated until
    /// it does, and meanwhile the user reads from the primary, through this process at least.
    pub async fn advance(&self, user_id: Uuid, lsn: Lsn) {
        for _ in 0..ATTEMPTS {
            if self.store(user_id, lsn).await.is_ok() {
                return;
            }
            if self.redis.is_degraded() {
                break;
            }
        }
        let mut unstored = self.unstored();
        if unstored.len() < MOST_UNSTORED || unstored.contains_key(&user_id) {
            let position = unstored.entry(user_id).or_default();
            *position = lsn.max(*position);
            self.has_unstored.store(true, Ordering::Release);
        }
    }

    /// Whether Redis may know an old position of this user.
    pub fn is_unstored(&self, user_id: Uuid) -> bool {
        self.has_unstored.load(Ordering::Acquire) && self.unstored().contains_key(&user_id)
    }

    async fn store(&self, user_id: Uuid, lsn: Lsn) -> Result<(), Unavailable> {
        let call = self.script.call(&[&self.key(user_id)]);
        self.redis.call(&call.arg(lsn.sortable()).arg(REMEMBERED_FOR.as_secs())).await
    }

    /// Runs until it is dropped.
    async fn repeat(&self) {
        loop {
            sleep(RETRY).await;
            if !self.has_unstored.load(Ordering::Acquire) {
                continue;
            }
            let waiting: Vec<_> = self.unstored().iter().map(|(id, lsn)| (*id, *lsn)).collect();
            for (user_id, lsn) in waiting {
                if self.store(user_id, lsn).await.is_err() {
                    break;
                }
                let mut unstored = self.unstored();
                if unstored.get(&user_id) == Some(&lsn) {
                    unstored.remove(&user_id);
                }
                self.has_unstored.store(!unstored.is_empty(), Ordering::Release);
            }
        }
    }

    fn unstored(&self) -> MutexGuard<'_, HashMap<Uuid, Lsn>> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sign(&self, token: &Token) -> String {
        self.signer.sign(token)
    }

    /// `None` for what no replica of the fleet has signed.
    pub fn verify(&self, text: &str) -> Option<Token> {
        self.signer.verify(text)
    }
}

/// Where Redis keeps the position of a user. If there is none, Redis may have lost it.
pub fn key(redis: &Redis, user_id: Uuid) -> String {
    redis.key(format_args!("position:{}", user_tag(user_id)))
}
