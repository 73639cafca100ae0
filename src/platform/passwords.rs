//! Passwords: Argon2id (19 MiB, two passes, one lane: OWASP's minimum), hashed off the async
//! threads and a few at a time, since each takes a core for tens of milliseconds.

use std::{collections::HashSet, sync::Arc};

use anyhow::Context;
use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use secrecy::{ExposeSecret, SecretString};

use super::turns::{self, Turns};

/// How many may wait for each that hashes, some 60 ms apiece: who comes later would wait for a
/// second, and is told at once to come back instead.
const WAITING_PER_TURN: usize = 16;

/// Passwords that guessing starts with, one a line. Those shorter than the minimum are left out.
static COMMON: &str = include_str!("common_passwords.txt");

#[derive(Clone)]
pub struct Config {
    /// Hashes at the same time; each needs a core and 19 MiB.
    pub parallel: usize,
}

/// Hashes and verifies. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    turns: Turns,
    common: Arc<HashSet<&'static str>>,
    /// Verified against when the user is unknown, so that the answer takes as long.
    decoy: Arc<str>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("too many passwords are being hashed")]
    Busy,
    #[error(transparent)]
    Bug(#[from] anyhow::Error),
}

impl Passwords {
    /// # Errors
    /// The decoy cannot be hashed.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            turns: Turns::new(config.parallel, WAITING_PER_TURN),
            common: Arc::new(COMMON.lines().collect()),
            decoy: hash(b"a decoy that nobody has")?.into(),
        })
    }

    /// Whether `password` is one of those that guessing starts with.
    pub fn is_common(&self, password: &str) -> bool {
        self.common.contains(password.to_lowercase().as_str())
    }

    /// The PHC string to store.
    ///
    /// # Errors
    /// `Busy` when the queue is too long.
    pub async fn hash(&self, password: SecretString) -> Result<String, Error> {
        self.in_turn(move || hash(password.expose_secret().as_bytes())).await
    }

    /// Whether `password` matches `stored`. `None`, an unknown user, is never a match and takes
    /// as long as one.
    ///
    /// # Errors
    /// `Busy` when the queue is too long.
    pub async fn verify(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool, Error> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.as_ref().to_owned());
        let matches = self
            .in_turn(move || {
                let parsed = PasswordHash::new(&stored).context("stored hash is damaged")?;
                let password = password.expose_secret().as_bytes();
                Ok(Argon2::default().verify_password(password, &parsed).is_ok())
            })
            .await?;
        Ok(matches && known)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turns.take().await.map_err(|turns::Busy| Error::Busy)?;
        let (_turn, done) = turn.run(work).await?;
        Ok(done?)
    }
}

/// Argon2's defaults are OWASP's minimum; `uses_the_promised_cost` holds them to it.
fn hash(password: &[u8]) -> anyhow::Result<String> {
    Ok(Argon2::default()
        .hash_password(password)
        .map_err(|error| anyhow::anyhow!("cannot hash: {error}"))?
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn uses_the_promised_cost_and_never_accepts_the_decoy() {
        let passwords = Passwords::new(&Config { parallel: 1 }).unwrap();
        let stored = passwords.hash("correct horse".to_owned().into()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let verify = async |password: &str, stored: Option<String>| {
            passwords.verify(password.to_owned().into(), stored).await.unwrap()
        };
        assert!(verify("correct horse", Some(stored.clone())).await);
        assert!(!verify("correct horsf", Some(stored)).await);
        assert!(!verify("a decoy that nobody has", None).await);
    }

    #[tokio::test]
    async fn a_burst_is_refused_at_once_beyond_its_queue() {
        use std::{pin::pin, task::Poll};

        use futures::{future::join_all, poll};
        let passwords = Passwords::new(&Config { parallel: 1 }).unwrap();
        // The only turn is taken, so that nobody ends while the burst comes in.
        let turn = passwords.turns.take().await.unwrap();
        let hash = || passwords.hash("correct horse".to_owned().into());
        let mut first = Box::pin(join_all((0..WAITING_PER_TURN).map(|_| hash())));
        assert!(poll!(first.as_mut()).is_pending());
        for _ in 0..1_000 {
            assert!(matches!(poll!(pin!(hash())), Poll::Ready(Err(Error::Busy))));
        }
        // Whoever gives up makes room.
        drop(first);
        drop(turn);
        hash().await.unwrap();
    }

    #[test]
    fn knows_common_passwords_in_any_case() {
        let passwords = Passwords::new(&Config { parallel: 1 }).unwrap();
        assert!(passwords.is_common("Password123"));
        assert!(!passwords.is_common("correct horse battery staple"));
    }
}
