//! Files that come with the request that uses them: through this process to S3, in constant
//! memory, and from there on as any other upload.

use http::StatusCode;
use uuid::Uuid;

use super::{
    keys,
    model::{ContentType, CreateUpload, Purpose, SetPicture, Upload},
    queries::{self, Facts},
    service,
    variants::MakeVariants,
    verify::{self, Verdict},
};
use crate::{
    platform::{
        db::Tx,
        http::{
            error::ApiError,
            file::{self, FileBody, FileOr},
        },
        images::FileType,
        jobs,
        storage::{BodySize, NewObject, StreamError},
    },
    state::AppState,
};

/// What is to be somebody's, or a product's, picture.
pub(super) enum Picture {
    Nothing,
    /// An upload that is completed already.
    Uploaded(Uuid),
    /// A file that came with the request; it is completed along with the change.
    Received(Box<Received>),
}

/// A verified file, in its place, whose upload is not completed yet.
pub(super) struct Received {
    upload: Upload,
    facts: Facts,
}

impl Picture {
    /// # Errors
    /// 400, 408, 409 beyond the quota, 413, 415, 422 for a file that is no whole picture, 503.
    pub(super) async fn of(
        app: &AppState,
        owner_id: Uuid,
        purpose: Purpose,
        input: FileOr<SetPicture>,
    ) -> Result<Self, ApiError> {
        match input {
            FileOr::Named(SetPicture { upload_id }) => Ok(Self::Uploaded(upload_id)),
            FileOr::File(file) => {
                let received = receive(app, owner_id, purpose, file).await?;
                Ok(Self::Received(Box::new(received)))
            }
        }
    }

    /// The upload, completed within `tx` if it is not yet.
    ///
    /// # Errors
    /// 409 `upload_expired` for what took far too long.
    pub(super) async fn complete(&self, tx: &mut Tx) -> Result<Option<Uuid>, ApiError> {
        let received = match self {
            Self::Nothing => return Ok(None),
            Self::Uploaded(id) => return Ok(Some(*id)),
            Self::Received(received) => received,
        };
        let Received { upload, facts } = &**received;
        let completed = queries::complete(tx, upload.id, facts).await?;
        completed.ok_or_else(service::expired)?;
        jobs::enqueue(tx, &MakeVariants { upload_id: upload.id }).await?;
        Ok(Some(upload.id))
    }

    /// Deletes what is of no use any longer, now that this is the picture, or is not to be.
    pub(super) async fn clean_up<T>(&self, app: &AppState, outcome: &Result<T, ApiError>) {
        let Self::Received(received) = self else {
            return;
        };
        let Received { upload, facts } = &**received;
        if outcome.is_ok() {
            app.uploads_total.with_label_values(&[upload.purpose.as_str(), "completed"]).inc();
            service::delete_objects(app, &[keys::incoming(upload.id)]).await;
        } else {
            let kept = keys::kept(upload.purpose, &facts.sha256, upload.id);
            give_up(app, upload, &[keys::incoming(upload.id), kept]).await;
        }
    }
}

/// The row comes first: it keeps a place in the quota, and the sweep away from the object.
async fn receive(
    app: &AppState,
    owner_id: Uuid,
    purpose: Purpose,
    file: FileBody,
) -> Result<Received, ApiError> {
    let kind = FileType::of_media_type(file.content_type()).filter(|kind| kind.is_picture());
    let kind = kind.ok_or_else(unsupported)?;
    let max = app.uploads.max_bytes.unsigned_abs();
    if file.is_surely_above(max) {
        return Err(file::too_large(max));
    }
    let size = BodySize { announced: file.announced().map(|bytes| bytes.min(max)), max };
    let upload = reserve(app, owner_id, purpose, kind, size).await?;
    let verified = store_and_verify(app, &upload, size, file).await;
    if verified.is_err() {
        give_up(app, &upload, &[keys::incoming(upload.id)]).await;
    }
    verified
}

async fn reserve(
    app: &AppState,
    owner_id: Uuid,
    purpose: Purpose,
    kind: FileType,
    size: BodySize,
) -> Result<Upload, ApiError> {
    let room = size.announced.unwrap_or(size.max).max(1);
    let new = CreateUpload {
        content_type: ContentType(kind),
        size: i64::try_from(room).map_err(ApiError::internal)?,
        purpose,
        checksum_sha256: None,
    };
    let mut tx = app.db.begin().await?;
    let upload = service::insert(app, &mut tx, Uuid::now_v7(), owner_id, &new).await?;
    tx.commit().await?;
    Ok(upload)
}

async fn store_and_verify(
    app: &AppState,
    upload: &Upload,
    size: BodySize,
    file: FileBody,
) -> Result<Received, ApiError> {
    let key = keys::incoming(upload.id);
    let new = NewObject { key: &key, content_type: &upload.content_type };
    let stored = app.storage.store(&app.tasks, &new, size, file.into_frames()).await;
    let stored = stored.map_err(|error| match error {
        StreamError::TooLarge => file::too_large(size.max),
        StreamError::Empty => ApiError::bad_request("empty_body", "The file has no bytes."),
        StreamError::Body(error) => error,
        StreamError::Storage(error) => error.into(),
    })?;
    let mut conn = app.db.primary().await?;
    let size = i64::try_from(stored.size).map_err(ApiError::internal)?;
    let upload = queries::note_received(&mut conn, upload.id, size, &stored.sha256).await?;
    drop(conn);
    let upload = upload.ok_or_else(service::expired)?;
    match verify::verify(app, &upload).await? {
        Verdict::Fit(facts) => Ok(Received { upload, facts }),
        Verdict::Unfit(rejection) => {
            app.uploads_total.with_label_values(&[upload.purpose.as_str(), "rejected"]).inc();
            Err(service::rejected(&Upload { detail: Some(rejection.to_string()), ..upload }))
        }
    }
}

/// Lets go of the upload, and deletes what there is of it. Not if it was completed after all, by a
/// transaction whose end was not heard of.
async fn give_up(app: &AppState, upload: &Upload, keys: &[String]) {
    let released = async {
        let mut conn = app.db.primary().await?;
        queries::release_unfinished(&mut conn, upload.id).await
    };
    match released.await {
        Ok(true) => service::delete_objects(app, keys).await,
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, upload_id = %upload.id, "left to the sweep"),
    }
}

fn unsupported() -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "Send the picture as `image/png`, `image/jpeg` or `image/webp`, raw or as the one file of \
         a `multipart/form-data`, or name an upload in JSON.",
    )
}
