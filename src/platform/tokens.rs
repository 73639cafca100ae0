//! Access tokens: JWT signed with Ed25519 (RFC 8725, RFC 9068), and the keys that sign them.
//!
//! The algorithm is fixed here and never taken from a token; a key is found by `kid` among the
//! configured ones only.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use aws_lc_rs::{encoding::AsDer, signature::Ed25519KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
    jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash},
};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// Clocks of replicas may differ by this much.
pub(in crate::platform) const LEEWAY: Duration = Duration::from_secs(30);

/// `typ` of an access token (RFC 9068), so that no other kind of JWT passes for one.
const TOKEN_TYPE: &str = "at+jwt";

/// Verified tokens remembered. A verification costs 60 µs, a look-up below 1 µs; at 500 bytes
/// each this is bounded at about 10 MiB.
const REMEMBERED_TOKENS: u64 = 20_000;

#[derive(Clone)]
pub struct Config {
    /// PKCS#8 PEM blocks. The first signs; all verify, so that a rotation has two live keys.
    pub private_keys: SecretString,
    pub issuer: String,
    pub audience: String,
    pub lifetime: Duration,
}

impl Config {
    /// The keys one by one, for what else has to be signed.
    pub fn secrets(&self) -> Vec<SecretString> {
        pem_blocks(self.private_keys.expose_secret()).map(SecretString::from).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Customer,
    Admin,
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user_id: Uuid,
    pub session_id: Uuid,
    pub role: Role,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    sid: Uuid,
    role: Role,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: Uuid,
}

/// Issues and verifies access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// Key id, signing half, verifying half. The first one signs.
    keys: Vec<(String, EncodingKey, DecodingKey)>,
    key_set: JwkSet,
    validation: Validation,
    /// Only tokens whose signature was verified; their expiry is checked on every use.
    verified: Cache<Box<str>, (Arc<Principal>, i64)>,
}

impl Tokens {
    /// # Errors
    /// A key that is not a PKCS#8 Ed25519 PEM, or none at all.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        let mut key_set = JwkSet::default();
        for pem in pem_blocks(config.private_keys.expose_secret()) {
            let (id, jwk, signing) = read_key(&pem).with_context(|| {
                format!("JWT_PRIVATE_KEYS: key {} is not usable", keys.len() + 1)
            })?;
            let verifying = DecodingKey::from_jwk(&jwk)?;
            key_set.keys.push(jwk);
            keys.push((id, signing, verifying));
        }
        anyhow::ensure!(
            !keys.is_empty(),
            "JWT_PRIVATE_KEYS holds no PEM block; `shoal keys generate` makes one"
        );
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        Ok(Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                keys,
                key_set,
                validation,
                verified: Cache::builder()
                    .max_capacity(REMEMBERED_TOKENS)
                    .time_to_live(config.lifetime)
                    .build(),
            }),
        })
    }

    /// A signed token for `principal`, and the seconds it is good for.
    ///
    /// # Errors
    /// The key refused to sign: a bug, since it was tried at start-up.
    pub fn issue(&self, principal: &Principal) -> anyhow::Result<(String, u64)> {
        let inner = &*self.inner;
        let (id, signing, _) = inner.keys.first().context("no signing key")?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let lifetime = inner.config.lifetime.as_secs();
        let claims = Claims {
            iss: inner.config.issuer.clone(),
            aud: inner.config.audience.clone(),
            sub: principal.user_id,
            sid: principal.session_id,
            role: principal.role,
            iat: now,
            nbf: now,
            exp: now + lifetime as i64,
            jti: Uuid::now_v7(),
        };
        let header = Header {
            typ: Some(TOKEN_TYPE.to_owned()),
            kid: Some(id.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        Ok((encode(&header, &claims, signing)?, lifetime))
    }

    /// Who `token` was issued to; `None` for any token that is not valid now, whatever the cause.
    pub fn verify(&self, token: &str) -> Option<Arc<Principal>> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        if let Some((principal, expires)) = self.inner.verified.get(token) {
            return (now < expires + LEEWAY.as_secs() as i64).then_some(principal);
        }
        let claims = self
            .decode(token)
            .inspect_err(|error| tracing::info!(%error, "access token refused"))
            .ok()?;
        let principal =
            Arc::new(Principal { user_id: claims.sub, session_id: claims.sid, role: claims.role });
        let entry = (principal.clone(), claims.exp);
        self.inner.verified.insert(token.into(), entry);
        Some(principal)
    }

    /// When a token that was just verified ends, in seconds since 1970. Those who use it up to
    /// then need no leeway.
    pub fn end_of(&self, token: &str) -> Option<i64> {
        let (_, end) = self.inner.verified.get(token)?;
        Some(end)
    }

    fn decode(&self, token: &str) -> anyhow::Result<Claims> {
        let header = decode_header(token)?;
        anyhow::ensure!(header.typ.as_deref() == Some(TOKEN_TYPE), "wrong typ");
        let kid = header.kid.context("no kid")?;
        let known = self.inner.keys.iter().find(|(id, ..)| *id == kid);
        let (_, _, verifying) = known.context("unknown kid")?;
        Ok(decode::<Claims>(token, verifying, &self.inner.validation)?.claims)
    }

    /// The public keys (RFC 7517).
    pub fn key_set(&self) -> &JwkSet {
        &self.inner.key_set
    }
}

/// The id of each configured key, or what is wrong with it.
pub(in crate::platform) fn key_ids(config: &Config) -> Vec<Result<String, String>> {
    let blocks = pem_blocks(config.private_keys.expose_secret());
    let id = |pem: String| read_key(&pem).map(|(id, ..)| id).map_err(|error| error.to_string());
    blocks.map(id).collect()
}

/// A new signing key as PKCS#8 PEM.
///
/// # Errors
/// The system has no randomness to give.
pub fn generate_key() -> anyhow::Result<String> {
    let pair = Ed25519KeyPair::generate().context("cannot generate a key")?;
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().context("cannot encode")?;
    Ok(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(der.as_ref())
    ))
}

/// The id (RFC 7638 thumbprint), public half and signing half of a PEM.
fn read_key(pem: &str) -> anyhow::Result<(String, Jwk, EncodingKey)> {
    let signing = EncodingKey::from_ed_pem(pem.as_bytes())?;
    let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::EdDSA)?;
    let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
    jwk.common.key_id = Some(id.clone());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    jwk.common.key_algorithm = Some(KeyAlgorithm::EdDSA);
    Ok((id, jwk, signing))
}

fn pem_blocks(text: &str) -> impl Iterator<Item = String> + '_ {
    const END: &str = "-----END PRIVATE KEY-----";
    // A variable of a compose file or of systemd cannot hold a line break; `\n` stands for one.
    text.split_inclusive(END)
        .filter(|block| block.contains(END))
        .map(|block| block.replace("\\n", "\n").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(keys: &str, audience: &str) -> Tokens {
        Tokens::new(&Config {
            private_keys: SecretString::from(keys.to_owned()),
            issuer: "shoal".to_owned(),
            audience: audience.to_owned(),
            lifetime: Duration::from_secs(600),
        })
        .unwrap()
    }

    fn principal() -> Principal {
        Principal { user_id: Uuid::now_v7(), session_id: Uuid::now_v7(), role: Role::Customer }
    }

    #[test]
    fn a_token_outlives_the_rotation_of_its_key() {
        let (old, new) = (generate_key().unwrap(), generate_key().unwrap());
        let before = tokens(&old, "shoal");
        let (token, _) = before.issue(&principal()).unwrap();
        let during = tokens(&format!("{new}{old}"), "shoal");
        assert!(during.verify(&token).is_some());
        assert_eq!(during.key_set().keys.len(), 2);
        let (renewed, _) = during.issue(&principal()).unwrap();
        assert!(before.verify(&renewed).is_none(), "signed by the new key");
        assert!(tokens(&new, "shoal").verify(&token).is_none());
    }

    #[test]
    fn refuses_what_it_did_not_sign_for_this_purpose() {
        let key = generate_key().unwrap();
        let tokens = tokens(&key, "shoal");
        let (good, _) = tokens.issue(&principal()).unwrap();
        assert!(tokens.verify(&good).is_some());
        assert!(tokens.verify(&good).is_some(), "from the cache");
        let (elsewhere, _) = super::tests::tokens(&key, "other").issue(&principal()).unwrap();
        let mut parts: Vec<&str> = good.split('.').collect();
        let none = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .encode(r#"{"alg":"none","typ":"at+jwt"}"#);
        parts[0] = &none;
        let unsigned = parts.join(".");
        parts[2] = "";
        let stripped = parts.join(".");
        let truncated = &good[..good.len() - 4];
        for bad in [elsewhere.as_str(), &unsigned, &stripped, truncated, "", "a.b.c"] {
            assert!(tokens.verify(bad).is_none(), "{bad}");
        }
    }
}
