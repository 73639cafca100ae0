//! Whether a file is what it was announced as, and where it is put if so. The one way there is, for
//! files that came straight to S3 and for those that came through the API.

use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{keys, model::Upload, queries::Facts};
use crate::{
    platform::{
        http::error::ApiError,
        images::{self, FileType, Refusal},
        storage::{self, NewObject},
        turns::Busy,
    },
    state::AppState,
};

/// What became of a look at a file.
pub(super) enum Verdict {
    /// It is stored under its key, for good.
    Fit(Facts),
    Unfit(Rejection),
}

/// Why a file is not taken, in words for its owner.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("The file has {found} bytes, though it was announced with {expected}.")]
    WrongSize { expected: i64, found: u64 },
    #[error("The file's SHA-256 is not the one that was announced.")]
    WrongChecksum,
    #[error(transparent)]
    File(#[from] Refusal),
}

impl Rejection {
    /// A stable word for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::WrongSize { .. } => "size_mismatch",
            Self::WrongChecksum => "checksum_mismatch",
            Self::File(refusal) => refusal.code(),
        }
    }
}

/// Reads `incoming/{id}` once, and stores the very bytes that it verified: whoever overwrites that
/// object meanwhile changes nothing. May be done twice, also at once.
///
/// # Errors
/// 409 while nothing was sent; 503 while S3 is away, or too many files are looked at.
pub(super) async fn verify(app: &AppState, upload: &Upload) -> Result<Verdict, ApiError> {
    let steps = async {
        // For the file's memory as much as for the core.
        let turn = app.file_checks.take().await.map_err(|Busy| {
            ApiError::overloaded("Too many files are being looked at; try again shortly.")
        })?;
        let (expected, id) = (upload.size, upload.id);
        let bytes = match app.storage.read(&keys::incoming(id), expected.unsigned_abs()).await {
            Ok(bytes) => bytes,
            Err(storage::Error::WrongSize(found)) => {
                return Ok(Verdict::Unfit(Rejection::WrongSize { expected, found }));
            }
            Err(storage::Error::NotFound) => return Err(not_received()),
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::of_media_type(&upload.content_type);
        let declared = upload.declared_sha256.clone();
        let looking = bytes.clone();
        let look = move || look(&looking, kind, declared.as_deref());
        let (_turn, looked) = turn.run(look).await.map_err(ApiError::internal)?;
        let facts = match looked {
            Ok(facts) => facts,
            Err(rejection) => return Ok(Verdict::Unfit(rejection)),
        };
        let key = keys::kept(upload.purpose, &facts.sha256, id);
        let new = NewObject { key: &key, content_type: &upload.content_type };
        app.storage.put(&new, bytes).await?;
        Ok(Verdict::Fit(facts))
    };
    let slow = |_| ApiError::from(storage::Error::Unavailable("it is too slow".to_owned()));
    timeout(app.storage.patience(), steps).await.map_err(slow)?
}

/// Takes a core for as long as decoding takes.
fn look(bytes: &[u8], kind: Option<FileType>, declared: Option<&[u8]>) -> Result<Facts, Rejection> {
    let sha256: [u8; 32] = Sha256::digest(bytes).into();
    if declared.is_some_and(|declared| declared != sha256) {
        return Err(Rejection::WrongChecksum);
    }
    let dimensions = images::check(bytes, kind.ok_or(Refusal::UnknownType)?)?;
    let pixels = |edge: u32| i32::try_from(edge).ok();
    Ok(Facts {
        sha256,
        width: dimensions.and_then(|dimensions| pixels(dimensions.width)),
        height: dimensions.and_then(|dimensions| pixels(dimensions.height)),
    })
}

fn not_received() -> ApiError {
    ApiError::conflict(
        "upload_not_received",
        "The file is not there yet: send it as the upload's `upload` says, then complete it.",
    )
}
