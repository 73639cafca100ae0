//! Signatures of Standard Webhooks 1.0.0.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use uuid::Uuid;

/// Bytes of a new secret; the standard asks for 24 to 64.
const SECRET_BYTES: usize = 32;

/// What sender and receiver share. Only [`Secret::reveal`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn generate() -> Self {
        Self(rand::random::<[u8; SECRET_BYTES]>().to_vec())
    }

    /// `whsec_` and base64, as receivers are given it.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(&self.0))
    }

    /// To be stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; seconds since 1970.
    fn sign(&self, id: Uuid, timestamp: i64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// The value of `webhook-signature`: one for each secret, any of which will do for the receiver.
pub(super) fn signatures(secrets: &[Secret], id: Uuid, timestamp: i64, body: &[u8]) -> String {
    let signed: Vec<_> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    signed.join(" ")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn the_reference_verifies_either_secret_and_no_other() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let (id, body) = (Uuid::now_v7(), br#"{"type":"order.paid"}"#);
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let signatures = signatures(&[new.clone(), old.clone()], id, timestamp, body);
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let headers = HeaderMap::from_iter([
            (http::HeaderName::from_static("webhook-id"), value(&id.to_string())),
            (http::HeaderName::from_static("webhook-timestamp"), value(&timestamp.to_string())),
            (http::HeaderName::from_static("webhook-signature"), value(&signatures)),
        ]);
        let verify = |secret: &Secret, body: &[u8]| {
            let reference = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
            reference.verify(body, &headers).is_ok()
        };
        assert!(verify(&old, body) && verify(&new, body));
        assert!(!verify(&Secret::generate(), body));
        assert!(!verify(&new, b"{}"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
