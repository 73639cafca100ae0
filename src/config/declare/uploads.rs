//! What users may upload, and how it is served.

use super::{super::Uploads, partners::http_url};
use crate::platform::{
    env::{Env, positive},
    turns,
};

pub(super) fn declare_uploads(env: &mut Env<'_>) -> Option<Uploads> {
    let max_bytes = env.or_default(
        "SHOAL_UPLOAD_MAX_BYTES",
        "10485760",
        "the largest file that may be uploaded; each that is looked at is in memory",
        positive,
    );
    let quota_bytes = env.or_default(
        "SHOAL_UPLOAD_QUOTA_BYTES",
        "104857600",
        "what one user may keep; pictures of products count for nobody",
        positive,
    );
    let quota_files =
        env.or_default("SHOAL_UPLOAD_QUOTA_FILES", "100", "the same in files", positive);
    let cdn_url = env.optional(
        "SHOAL_CDN_URL",
        "serves `pictures/`, below SHOAL_S3_PREFIX, to everybody; without it the API redirects to S3",
        http_url,
    );
    let checks = env.optional(
        "SHOAL_UPLOAD_CHECKS",
        "files looked at or shrunk at the same time, each on a core; otherwise one per core",
        positive,
    );
    Some(Uploads {
        max_bytes: max_bytes?,
        quota_bytes: quota_bytes?,
        quota_files: quota_files?,
        cdn_url: cdn_url?.map(|url| url.as_str().trim_end_matches('/').to_owned()),
        checks: checks?.unwrap_or_else(turns::cores),
    })
}
