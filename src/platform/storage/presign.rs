//! Addresses that let a client send or fetch one object, without credentials and for a while.
//! They are made here, by signing: S3 need not be there.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use base64::{Engine, prelude::BASE64_STANDARD};
use time::OffsetDateTime;

use super::{Error, Storage};

/// What the client has to send, to the byte: all of it is signed.
pub struct PutTerms<'a> {
    pub content_type: &'a str,
    pub size: u64,
    pub sha256: Option<&'a [u8]>,
}

/// A request that a client may make until `expires_at`.
#[derive(Debug)]
pub struct Presigned {
    pub url: String,
    /// To be sent exactly like this.
    pub headers: Vec<(String, String)>,
    pub expires_at: OffsetDateTime,
}

impl Storage {
    /// The address to `PUT` an object to.
    ///
    /// # Errors
    /// There are no credentials to sign with.
    pub async fn presign_put(
        &self,
        key: &str,
        terms: &PutTerms<'_>,
        lifetime: Duration,
    ) -> Result<Presigned, Error> {
        let (config, expires_at) = valid_for(lifetime)?;
        let size = i64::try_from(terms.size).map_err(|error| Error::Refused(error.to_string()))?;
        let put = self.0.signer.put_object().bucket(&self.0.bucket).key(self.full_key(key));
        let put = put
            .content_type(terms.content_type)
            .content_length(size)
            .set_checksum_sha256(terms.sha256.map(|hash| BASE64_STANDARD.encode(hash)));
        Ok(presigned(&put.presigned(config).await?, expires_at))
    }

    /// The address to `GET` an object from, to be saved as `filename` (plain ASCII).
    ///
    /// # Errors
    /// There are no credentials to sign with.
    pub async fn presign_get(
        &self,
        key: &str,
        filename: &str,
        lifetime: Duration,
    ) -> Result<Presigned, Error> {
        let (config, expires_at) = valid_for(lifetime)?;
        let get = self.0.signer.get_object().bucket(&self.0.bucket).key(self.full_key(key));
        let get = get.response_content_disposition(format!("attachment; filename=\"{filename}\""));
        Ok(presigned(&get.presigned(config).await?, expires_at))
    }
}

fn valid_for(lifetime: Duration) -> Result<(PresigningConfig, OffsetDateTime), Error> {
    let now = SystemTime::now();
    let config = PresigningConfig::builder().start_time(now).expires_in(lifetime).build();
    let config = config.map_err(|error| Error::Refused(error.to_string()))?;
    Ok((config, (now + lifetime).into()))
}

fn presigned(request: &PresignedRequest, expires_at: OffsetDateTime) -> Presigned {
    let headers = request.headers();
    Presigned {
        url: request.uri().to_owned(),
        // Every client sends the host by itself.
        headers: headers
            .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        expires_at,
    }
}
