//! Guesses at a password: each costs a longer wait than the one before, and nobody can lock an
//! owner out who comes from an address of its own.
//!
//! Guesses are counted by account, whatever address they come from, except those from an address
//! at which the account's password was known within the last 30 days: such an address has a count
//! of its own. While Redis is away nobody is known, and a replica grants a share by itself.

use std::{fmt, time::Duration};

use sha2::{Digest, Sha256};

use super::{Decision, Policy, RateLimiter};
use crate::platform::redis::{Call, Script};

/// How long an address stays known after the password was.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What counts and forgives.
pub(super) struct Scripts {
    guess: Script,
    forgive: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let guess = Script::new(include_str!("guess.lua"));
        Self { guess, forgive: Script::new(include_str!("forgive.lua")) }
    }
}

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
        let guess = self.on_guesses(&self.guesses.guess, policy, account, address);
        let guess = guess.arg(policy.quota).arg(policy.window.as_millis() as u64);
        let Ok((allowed, remaining, reset, retry)) =
            self.redis.call::<(u8, u32, u64, u64)>(&guess).await
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
        let forgive = self.on_guesses(&self.guesses.forgive, policy, account, address);
        let forgive = forgive.arg(KNOWN_FOR.as_secs());
        // Lost while Redis is away: the count is forgotten by itself, the address is not known.
        let _ = self.redis.call::<u8>(&forgive).await;
        self.local.forgive(&self.key(policy, account));
    }

    /// A call on the three keys of an account and an address.
    fn on_guesses<'s>(
        &self,
        script: &'s Script,
        policy: Policy,
        account: &str,
        address: impl fmt::Display,
    ) -> Call<'s> {
        // Neither accounts nor addresses can be read from the keys; the prefix is the salt.
        let account = digest(&self.key(policy, account));
        let address = digest(&format!("{account} {address}"));
        // One hash tag: the keys live in one slot of a cluster.
        let key = |name: &str| self.redis.key(format_args!("guesses:{{{account}}}:{name}"));
        let (from, known) = (format!("from:{address}"), format!("known:{address}"));
        script.call(&[&key("all"), &key(&from), &key(&known)])
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
