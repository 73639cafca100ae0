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
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

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

    /// Where Redis keeps the position of a user; see [`Positions::parse`].
    pub fn key(&self, user_id: Uuid) -> String {
        self.redis.key(format_args!("position:{}", user_tag(user_id)))
    }

    pub fn parse(value: &str) -> Option<Lsn> {
        u64::from_str_radix(value, 16).ok().map(Lsn)
    }

    /// Moves a user's position forward. While Redis is away, users read from the primary.
    pub async fn advance(&self, user_id: Uuid, lsn: Lsn) {
        let call = self.script.call(&[&self.key(user_id)]);
        let call = call.arg(format!("{:016x}", lsn.0)).arg(REMEMBERED_FOR.as_secs());
        if self.redis.call::<()>(&call).await.is_err() {
            tracing::warn!(%user_id, "the user's position was not stored");
        }
    }

    pub fn sign(&self, token: &Token) -> String {
        self.signer.sign(token)
    }

    /// `None` for what no replica of the fleet has signed.
    pub fn verify(&self, text: &str) -> Option<Token> {
        self.signer.verify(text)
    }
}
