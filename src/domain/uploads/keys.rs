//! Under which keys files are kept, and at which addresses they are served.

use std::{fmt::Write, time::Duration};

use uuid::Uuid;

use super::model::{Purpose, Upload};
use crate::{
    platform::{
        images::FileType,
        storage::{Error, Presigned},
    },
    state::AppState,
};

/// Where clients write, for a while.
pub(super) const INCOMING: &str = "incoming/";

/// Where verified files are. A CDN needs to read the first only: the second are private.
pub(super) const KEPT: [&str; 2] = ["pictures/", "documents/"];

/// How long an address to save from is good.
const LINK_LIFE: Duration = Duration::from_secs(15 * 60);

/// The longer edge of the smaller copies of a picture, in pixels.
pub(super) const EDGES: [u32; 2] = [256, 1024];

pub(super) fn incoming(id: Uuid) -> String {
    format!("{INCOMING}{id}")
}

/// The key of a verified file.
pub(super) fn kept(purpose: Purpose, sha256: &[u8], id: Uuid) -> String {
    let folder = match purpose {
        Purpose::Avatar | Purpose::ProductImage => KEPT[0],
        Purpose::Document => KEPT[1],
    };
    format!("{folder}{}/{id}", hex(sha256))
}

/// Of a file's key, or of its address: where its smaller copy is.
pub(super) fn variant(name: &str, edge: u32) -> String {
    format!("{name}-{edge}.webp")
}

/// All keys under which something of a verified file may be.
pub(super) fn all_kept(purpose: Purpose, sha256: &[u8], id: Uuid) -> Vec<String> {
    let key = kept(purpose, sha256, id);
    let variants: Vec<_> = EDGES.iter().map(|edge| variant(&key, *edge)).collect();
    std::iter::once(key).chain(variants).collect()
}

/// The upload that a key is of.
pub(super) fn upload_of(key: &str) -> Option<Uuid> {
    let (_, name) = key.rsplit_once('/')?;
    name.get(..36)?.parse().ok()
}

/// Where a picture is shown to everybody: at the CDN, or at a path of this API that redirects.
/// It never shows anything else.
pub(super) fn public_url(app: &AppState, upload: &Upload, sha256: &[u8]) -> String {
    match &app.uploads.cdn_url {
        Some(cdn) => format!("{cdn}/{}", kept(upload.purpose, sha256, upload.id)),
        None => format!("/v1/files/{}", upload.id),
    }
}

/// Splits `{id}` or `{id}-256.webp`.
pub(super) fn parse_file_name(name: &str) -> Option<(Uuid, Option<u32>)> {
    let id = name.get(..36)?.parse().ok()?;
    let rest = &name[36..];
    if rest.is_empty() {
        return Some((id, None));
    }
    let edge = EDGES.into_iter().find(|edge| *rest == variant("", *edge))?;
    Some((id, Some(edge)))
}

/// From where a verified file, or a smaller copy of it, can be saved for a while.
///
/// # Errors
/// There are no credentials to sign with.
pub(super) async fn presign(
    app: &AppState,
    upload: &Upload,
    sha256: &[u8],
    edge: Option<u32>,
) -> Result<Presigned, Error> {
    let (id, key) = (upload.id.to_string(), kept(upload.purpose, sha256, upload.id));
    let (key, filename) = match edge {
        Some(edge) => (variant(&key, edge), variant(&id, edge)),
        None => {
            let kind = FileType::of_media_type(&upload.content_type);
            (key, format!("{id}.{}", kind.map_or("bin", FileType::extension)))
        }
    };
    app.storage.presign_get(&key, &filename, LINK_LIFE).await
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_of_their_upload() {
        let id = Uuid::now_v7();
        for key in all_kept(Purpose::Avatar, &[7; 32], id) {
            assert_eq!(upload_of(&key), Some(id), "{key}");
        }
        assert_eq!(upload_of(&incoming(id)), Some(id));
        assert_eq!(upload_of("pictures/of/something"), None);
    }

    #[test]
    fn file_names_are_exact() {
        let id = Uuid::now_v7();
        assert_eq!(parse_file_name(&id.to_string()), Some((id, None)));
        assert_eq!(parse_file_name(&format!("{id}-256.webp")), Some((id, Some(256))));
        for bad in ["", "x", &format!("{id}-257.webp"), &format!("{id}/..")] {
            assert_eq!(parse_file_name(bad), None, "{bad}");
        }
    }
}
