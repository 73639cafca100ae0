//! Guesses at a password: each costs a longer wait than the one before, and nobody can lock an
//! owner out who comes from an address of its own.
//!
//! Guesses are counted by account, whatever address they come from, except those from an address
//! at which the account's password was known within the last 30 days: such an address has a count
//! of its own. While Redis is away nobody is known, and a replica grants a share by itself.

use std::{fmt, time::Duration};

use deadpool_redis::redis::{Cmd, cmd};
use sha2::{Digest, Sha256};

use super::{Decision, Policy, RateLimiter};

static GUESS: &str = include_str!("guess.lua");
static FORGIVE: &str = include_str!("forgive.lua");

/// How long an address stays known after the password was.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl RateLimiter {
    /// Counts one guess at the password of `account` from `address`, before it is looked at:
    /// guesses that are made at the same time are all counted. [`RateLimiter::forgive_guess`]
    /// gives it back to whoever knew the password.
    pub async fn guess(
        &self,
        policy: Policy,
        account: &str,
        address: impl fmt::Display,
    ) -> Decision {
        let mut guess = self.on_guesses(GUESS, policy, account, address);
        guess.arg(policy.quota).arg(policy.window.as_millis() as u64);
        let Ok((allowed, remaining, reset, retry)) =
            self.redis.run::<(u8, u32, u64, u64)>(&guess).await
        else {
            return self.check(policy, account).await;
        };
        let label = if allowed == 1 { "allowed" } else { "refused" };
        self.decisions.with_label_values(&[policy.name, label]).inc();
        // Milliseconds here, microseconds there.
        Decision::new(policy, (allowed, remaining, reset * 1_000, retry * 1_000))
    }

    /// Forgets the guesses that were counted where this one was, and remembers the address.
    pub async fn forgive_guess(&self, policy: Policy, account: &str, address: impl fmt::Display) {
        let mut forgive = self.on_guesses(FORGIVE, policy, account, address);
        forgive.arg(KNOWN_FOR.as_secs());
        // Lost while Redis is away: the count is forgotten by itself, the address is not known.
        let _ = self.redis.run::<u8>(&forgive).await;
        self.local.forgive(&self.key(policy, account));
    }

    /// A script on the three keys of an account and an address. The script goes along each time:
    /// next to hashing a password that is nothing.
    fn on_guesses(
        &self,
        script: &str,
        policy: Policy,
        account: &str,
        address: impl fmt::Display,
    ) -> Cmd {
        // Neither accounts nor addresses can be read from the keys; the prefix is the salt.
        let account = digest(&self.key(policy, account));
        let address = digest(&format!("{account} {address}"));
        // One hash tag: the keys live in one slot of a cluster.
        let key = |name: &str| self.redis.key(format_args!("guesses:{{{account}}}:{name}"));
        let mut command = cmd("EVAL");
        command.arg(script).arg(3).arg(key("all"));
        command.arg(key(&format!("from:{address}"))).arg(key(&format!("known:{address}")));
        command
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
