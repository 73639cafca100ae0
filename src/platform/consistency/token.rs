//! The `Consistency-Token` header: a position that a client carries from its write to its reads.

use std::time::Duration;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::platform::db::Lsn;

/// Bytes of the signature. There is little to gain by forging one: slower reads for oneself.
const SIGNATURE_BYTES: usize = 16;

/// What its holder has to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub lsn: Lsn,
    /// Seconds of Unix time until which no cache may answer, since one of its entries could not be
    /// evicted; 0 if all were.
    uncached_until: i64,
}

impl Token {
    pub fn new(lsn: Lsn) -> Self {
        Self { lsn, uncached_until: 0 }
    }

    /// For a write that left an entry of a cache stale, which lives for `life` at most.
    pub fn uncached(lsn: Lsn, life: Duration) -> Self {
        let until = OffsetDateTime::now_utc() + life;
        Self { lsn, uncached_until: until.unix_timestamp() }
    }

    /// Whether caches may still hold what the write replaced.
    pub fn is_uncached(&self) -> bool {
        self.uncached_until > OffsetDateTime::now_utc().unix_timestamp()
    }
}

/// Signs and verifies tokens. The first secret signs and all verify, so that a rotation has two.
pub(super) struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    pub(super) fn new(secrets: &[SecretString]) -> Self {
        let derive = |secret: &SecretString| {
            let master = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
            // A key of its own, so that no signature made for one purpose stands for another.
            let derived = hmac::sign(&master, b"Consistency-Token");
            hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
        };
        Self { keys: secrets.iter().map(derive).collect() }
    }

    /// `position.uncached-until.signature`.
    pub(super) fn sign(&self, token: &Token) -> String {
        let claims = format!("{:x}.{}", token.lsn.0, token.uncached_until);
        let signature = self.keys.first().map(|key| hmac::sign(key, claims.as_bytes()));
        let signature = signature.as_ref().map_or(&[][..], |tag| &tag.as_ref()[..SIGNATURE_BYTES]);
        format!("{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// `None` for what no replica of the fleet has signed.
    pub(super) fn verify(&self, text: &str) -> Option<Token> {
        let (claims, given) = text.rsplit_once('.')?;
        let given = URL_SAFE_NO_PAD.decode(given).ok()?;
        let is_signed_by = |key| {
            let expected = hmac::sign(key, claims.as_bytes());
            verify_slices_are_equal(&expected.as_ref()[..SIGNATURE_BYTES], &given).is_ok()
        };
        if !self.keys.iter().any(is_signed_by) {
            return None;
        }
        let (lsn, uncached_until) = claims.split_once('.')?;
        let lsn = Lsn(u64::from_str_radix(lsn, 16).ok()?);
        Some(Token { lsn, uncached_until: uncached_until.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secrets: &[&str]) -> Signer {
        let secrets: Vec<_> = secrets.iter().map(|s| SecretString::from(s.to_string())).collect();
        Signer::new(&secrets)
    }

    #[test]
    fn survives_a_rotation_of_its_secret() {
        let token = Token::new(Lsn(0x16_B374_D848));
        let text = signer(&["old"]).sign(&token);
        assert_eq!(signer(&["new", "old"]).verify(&text), Some(token));
        assert_eq!(signer(&["new"]).verify(&text), None);
    }

    #[test]
    fn refuses_what_was_not_signed() {
        let signer = signer(&["secret"]);
        let good = signer.sign(&Token::new(Lsn(255)));
        assert!(good.starts_with("ff.0."), "{good}");
        let raised = good.replacen("ff.", "fff.", 1);
        let unsigned = good.rsplit_once('.').unwrap().0;
        let stripped = format!("{unsigned}.");
        for bad in [&raised, unsigned, &stripped, "", ".", "ff", "x.y.z", "ff.0.!!!"] {
            assert_eq!(signer.verify(bad), None, "{bad}");
        }
    }

    #[test]
    fn tells_for_how_long_the_caches_may_not_answer() {
        assert!(!Token::new(Lsn(1)).is_uncached());
        assert!(Token::uncached(Lsn(1), Duration::from_secs(60)).is_uncached());
        assert!(!Token::uncached(Lsn(1), Duration::ZERO).is_uncached());
    }
}
