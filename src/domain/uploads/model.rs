//! What an upload is made of.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::platform::{images::FileType, storage::Presigned};

/// What a file is to be used for: it decides about types, rights, and who gets to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(super) enum Purpose {
    /// The picture of a user. Everybody may see it.
    Avatar,
    /// The picture of a product, for administrators to upload. Everybody may see it.
    ProductImage,
    /// For its owner alone.
    Document,
}

impl Purpose {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Avatar => "avatar",
            Self::ProductImage => "product_image",
            Self::Document => "document",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(super) enum State {
    Pending,
    Completed,
    Rejected,
    /// The file was not sent in time.
    Expired,
}

/// A media type of those that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, example = "image/png",
    pattern = "^(image/(png|jpeg|webp)|application/pdf)$")]
pub(super) struct ContentType(pub(super) FileType);

impl TryFrom<String> for ContentType {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        FileType::ALL
            .into_iter()
            .find(|known| known.media_type() == value)
            .map(Self)
            .ok_or("must be `image/png`, `image/jpeg`, `image/webp` or `application/pdf`")
    }
}

/// A SHA-256 in hexadecimal digits, as `sha256sum` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, pattern = "^[0-9a-fA-F]{64}$")]
pub(super) struct Checksum(pub(super) [u8; 32]);

impl TryFrom<String> for Checksum {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        const WHY: &str = "must be 64 hexadecimal digits";
        let mut hash = [0; 32];
        if value.len() != 64 || !value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(WHY);
        }
        for (byte, digits) in hash.iter_mut().zip(value.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| WHY)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WHY)?;
        }
        Ok(Self(hash))
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateUpload {
    pub content_type: ContentType,
    /// Bytes, exactly.
    #[schema(minimum = 1)]
    pub size: i64,
    pub purpose: Purpose,
    /// Of the file. S3 refuses any other bytes then.
    pub checksum_sha256: Option<Checksum>,
}

/// An upload as stored, released ones left out.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub id: Uuid,
    pub purpose: Purpose,
    pub content_type: String,
    pub size: i64,
    pub declared_sha256: Option<Vec<u8>>,
    pub state: State,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub sha256: Option<Vec<u8>>,
    pub width: Option<i32>,
    pub height: Option<i32>,
    pub has_variants: bool,
    pub created_at: OffsetDateTime,
}

/// An upload as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UploadResponse {
    pub id: Uuid,
    pub state: State,
    pub purpose: Purpose,
    pub content_type: String,
    /// Bytes.
    pub size: i64,
    /// Pixels, of pictures that were verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<i32>,
    /// Why it was rejected: a stable word, and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How to send the file; only told when the upload is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<SendFile>,
    /// Where to get the verified file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<Download>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A request that sends the file, good for one size and type, and for a while.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SendFile {
    #[schema(example = "PUT")]
    pub method: &'static str,
    pub url: String,
    /// To be sent exactly like this.
    pub headers: std::collections::BTreeMap<String, String>,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl From<Presigned> for SendFile {
    fn from(presigned: Presigned) -> Self {
        let Presigned { url, headers, expires_at } = presigned;
        Self { method: "PUT", url, headers: headers.into_iter().collect(), expires_at }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Download {
    pub url: String,
    /// Of a private file; what everybody may see stays where it is.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
    /// The same picture no wider or higher than 256 or 1024 pixels, as WebP, once they are made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<String>,
}

/// What is to become somebody's, or a product's, picture.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetPicture {
    /// A completed upload of one's own, for this purpose.
    pub upload_id: Uuid,
}

/// A form with a picture in it, as a page sends it. It is taken as it comes, never as a whole.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the documentation alone")]
pub(super) struct PictureForm {
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

impl UploadResponse {
    pub(super) fn new(upload: Upload) -> Self {
        Self {
            id: upload.id,
            state: upload.state,
            purpose: upload.purpose,
            content_type: upload.content_type,
            size: upload.size,
            width: upload.width,
            height: upload.height,
            reason: upload.reason,
            detail: upload.detail,
            upload: None,
            download: None,
            created_at: upload.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_64_hexadecimal_digits() {
        let parse = |text: &str| Checksum::try_from(text.to_owned());
        assert_eq!(parse(&"0aF".repeat(21).repeat(2)[..64]).unwrap().0[..3], [0x0a, 0xf0, 0xaf]);
        for bad in ["", &"a".repeat(63), &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
