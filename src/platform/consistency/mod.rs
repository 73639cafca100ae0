//! Reading one's own writes, whichever replica answers.
//!
//! After a commit the position of the log becomes the user's: it is kept in Redis, where it never
//! goes back, and handed out as a signed `Consistency-Token`, for a client that wants to see its
//! writes without being logged in, or while Redis is away. A read then asks for a database that
//! has got that far ([`super::db::Db::read`]).

mod token;

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;
use uuid::Uuid;

use self::token::Signer;
pub use self::token::Token;
use super::{
    db::Lsn,
    redis::{Redis, Script},
    sessions::user_tag,
};

/// How long a position is remembered: far longer than a replica that is read from may lag.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// As many as it takes for Redis to be given up, which is what makes reads go to the primary.
const ATTEMPTS: usize = 5;

/// Keeps and hands out positions. Cheap to clone.
#[derive(Clone)]
pub struct Positions {
    redis: Redis,
    script: Arc<Script>,
    signer: Arc<Signer>,
}

impl Positions {
    /// `secrets` sign the tokens: the first one now, the others did.
    pub fn new(redis: Redis, secrets: &[SecretString]) -> Self {
        Self {
            redis,
            script: Arc::new(Script::new(include_str!("advance.lua"))),
            signer: Arc::new(Signer::new(secrets)),
        }
    }

    /// Where Redis keeps the position of a user.
    pub fn key(&self, user_id: Uuid) -> String {
        key(&self.redis, user_id)
    }

    /// Moves a user's position forward. While Redis is away, users read from the primary; so this
    /// is tried hard only while Redis is there and slow.
    pub async fn advance(&self, user_id: Uuid, lsn: Lsn) {
        let call = self.script.call(&[&self.key(user_id)]);
        let call = call.arg(hex(lsn)).arg(REMEMBERED_FOR.as_secs());
        for _ in 0..ATTEMPTS {
            if self.redis.call::<()>(&call).await.is_ok() {
                return;
            }
            if self.redis.is_degraded() {
                break;
            }
        }
        tracing::warn!(%user_id, "Redis is away: the user's position was not stored");
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

/// As Redis keeps it: digits that compare as text, since Lua knows no number so large.
pub fn hex(lsn: Lsn) -> String {
    format!("{:016x}", lsn.0)
}

/// Reads what [`hex`] wrote.
pub fn parse(value: &str) -> Option<Lsn> {
    u64::from_str_radix(value, 16).ok().map(Lsn)
}
