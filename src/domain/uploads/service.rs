//! Use cases of uploads.

use std::time::Duration;

use http::StatusCode;
use uuid::Uuid;

use super::{
    keys,
    model::{CreateUpload, Download, Purpose, State, Upload, UploadResponse},
    queries::{self, Facts, Quota},
    variants::MakeVariants,
    verify::{self, Rejection, Verdict},
};
use crate::{
    domain::users,
    platform::{
        db::Tx,
        http::error::ApiError,
        idempotency::{Begun, Claim, Reply},
        jobs,
        storage::{Presigned, PutTerms},
        tokens::{Principal, Role},
    },
    state::AppState,
};

/// How long a file may be sent: as long as `expires_at` says (`queries.rs`).
const UPLOAD_LIFE: Duration = Duration::from_secs(15 * 60);

/// # Errors
/// 403 for a picture of a product unless by an administrator; 409 beyond the quota; 422.
pub(super) async fn create(
    app: &AppState,
    claim: Option<&Claim>,
    principal: &Principal,
    new: &CreateUpload,
) -> Result<Reply, ApiError> {
    check(app, principal, new)?;
    let id = Uuid::now_v7();
    let terms = PutTerms {
        content_type: new.content_type.0.media_type(),
        size: new.size.unsigned_abs(),
        sha256: new.checksum_sha256.as_ref().map(|hash| hash.0.as_slice()),
    };
    // Before the transaction: credentials may have to be fetched.
    let send = app.storage.presign_put(&keys::incoming(id), &terms, UPLOAD_LIFE).await?;
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let upload = insert(app, &mut once.tx, id, principal.user_id, new).await?;
    let location = format!("/v1/uploads/{id}");
    let body = UploadResponse { upload: Some(send.into()), ..UploadResponse::new(upload) };
    let reply = Reply::new(StatusCode::CREATED, &body)?;
    Ok(once.finish(reply.location(location)).await?)
}

/// # Errors
/// 409 beyond the quota.
pub(super) async fn insert(
    app: &AppState,
    tx: &mut Tx,
    id: Uuid,
    owner_id: Uuid,
    new: &CreateUpload,
) -> Result<Upload, ApiError> {
    users::lock(tx, owner_id).await?;
    let quota = Quota { bytes: app.uploads.quota_bytes, files: app.uploads.quota_files };
    queries::insert(tx, id, owner_id, new, &quota).await?.ok_or_else(|| over_quota(app))
}

fn check(app: &AppState, principal: &Principal, new: &CreateUpload) -> Result<(), ApiError> {
    if new.purpose == Purpose::ProductImage && principal.role != Role::Admin {
        return Err(ApiError::forbidden());
    }
    if new.purpose != Purpose::Document && !new.content_type.0.is_picture() {
        let why = "must be a picture for this purpose";
        return Err(ApiError::invalid("/content_type", "invalid", why));
    }
    let max = app.uploads.max_bytes;
    if !(1..=max).contains(&new.size) {
        let why = format!("must be from 1 to {max} bytes");
        return Err(ApiError::invalid("/size", "invalid", why));
    }
    Ok(())
}

/// Verifies what was sent and makes it the upload's file, for good. As often as it is called, and by
/// however many at once, the outcome is one and the same.
///
/// # Errors
/// 404; 409 while nothing was sent, or once it is too late; 422 `upload_rejected` for a file that
/// is not what was announced; 503 while S3 is away.
pub(super) async fn complete(
    app: &AppState,
    claim: Option<&Claim>,
    owner_id: Uuid,
    id: Uuid,
) -> Result<Reply, ApiError> {
    let upload = queries::find(&mut app.db.primary().await?, id, Some(owner_id)).await?;
    let upload = upload.ok_or_else(ApiError::not_found)?;
    let verified = match upload.state {
        State::Completed => None,
        State::Rejected => return Err(rejected(&upload)),
        State::Expired => return Err(expired()),
        State::Pending => match verify::verify(app, &upload).await? {
            Verdict::Fit(facts) => Some(facts),
            Verdict::Unfit(rejection) => return reject(app, upload, &rejection).await,
        },
    };
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let completed = match &verified {
        Some(facts) => queries::complete(&mut once.tx, id, facts).await?,
        None => None,
    };
    let is_first = completed.is_some();
    let upload = match completed {
        Some(upload) => upload,
        // Somebody else has completed it, now or long ago.
        None => {
            let found = queries::find(&mut once.tx, id, Some(owner_id)).await?;
            found.filter(|upload| upload.state != State::Pending).ok_or_else(ApiError::not_found)?
        }
    };
    if upload.state == State::Rejected {
        return Err(rejected(&upload));
    }
    if is_first && upload.width.is_some() {
        jobs::enqueue(&mut once.tx, &MakeVariants { upload_id: id }).await?;
    }
    let reply = Reply::new(StatusCode::OK, &UploadResponse::new(upload.clone()))?;
    let reply = once.finish(reply).await?;
    if let Some(facts) = verified {
        clean_up(app, &upload, &facts).await;
    }
    if is_first {
        app.uploads_total.with_label_values(&[upload.purpose.as_str(), "completed"]).inc();
    }
    Ok(reply)
}

/// Deletes what was sent, and what was stored if somebody else's look at other bytes counts.
async fn clean_up(app: &AppState, upload: &Upload, facts: &Facts) {
    let mut keys = vec![keys::incoming(upload.id)];
    if upload.sha256.as_deref() != Some(&facts.sha256) {
        keys.push(keys::kept(upload.purpose, &facts.sha256, upload.id));
    }
    delete_objects(app, &keys).await;
}

/// What nobody needs any longer. Should this fail, the sweep finds it.
pub(super) async fn delete_objects(app: &AppState, keys: &[String]) {
    if let Err(error) = app.storage.delete(keys).await {
        tracing::warn!(%error, "left to the sweep");
    }
}

async fn reject(app: &AppState, upload: Upload, rejection: &Rejection) -> Result<Reply, ApiError> {
    let (reason, detail) = (rejection.code(), rejection.to_string());
    // By a transaction, whose position in the log the owner's next read has to see.
    let mut tx = app.db.begin().await?;
    let is_first = queries::reject(&mut tx, upload.id, reason, &detail).await?;
    tx.commit().await?;
    if !is_first {
        // Its client sent the file again while this was looking at it.
        let why = "Another request has just completed it; ask for its state.";
        return Err(ApiError::conflict("upload_in_flight", why));
    }
    app.uploads_total.with_label_values(&[upload.purpose.as_str(), "rejected"]).inc();
    Err(rejected(&Upload { detail: Some(detail), ..upload }))
}

/// The upload with the address of its file, if it has one.
///
/// # Errors
/// There are no credentials to sign with.
pub(super) async fn present(app: &AppState, upload: Upload) -> Result<UploadResponse, ApiError> {
    let Some(sha256) = &upload.sha256 else {
        return Ok(UploadResponse::new(upload));
    };
    let edges: &[u32] = if upload.has_variants { &keys::EDGES } else { &[] };
    let is_public = upload.purpose != Purpose::Document && app.uploads.cdn_url.is_some();
    let download = if is_public {
        let url = keys::public_url(app, &upload, sha256);
        let variants = edges.iter().map(|edge| keys::variant(&url, *edge)).collect();
        Download { url, expires_at: None, variants }
    } else {
        let mut variants = Vec::with_capacity(edges.len());
        for edge in edges {
            variants.push(keys::presign(app, &upload, sha256, Some(*edge)).await?.url);
        }
        let Presigned { url, expires_at, .. } = keys::presign(app, &upload, sha256, None).await?;
        Download { url, expires_at: Some(expires_at), variants }
    };
    Ok(UploadResponse { download: Some(download), ..UploadResponse::new(upload) })
}

/// Where a picture that everybody may see is to be fetched from: the smaller copy, once there is one.
///
/// # Errors
/// 404; or there are no credentials to sign with.
pub(super) async fn address(
    app: &AppState,
    upload: &Upload,
    edge: Option<u32>,
) -> Result<String, ApiError> {
    let sha256 = upload.sha256.as_ref().ok_or_else(ApiError::not_found)?;
    let edge = edge.filter(|_| upload.has_variants);
    if app.uploads.cdn_url.is_none() {
        return Ok(keys::presign(app, upload, sha256, edge).await?.url);
    }
    let url = keys::public_url(app, upload, sha256);
    Ok(edge.map_or_else(|| url.clone(), |edge| keys::variant(&url, edge)))
}

/// Gives up an upload: it no longer counts, and is deleted soon.
///
/// # Errors
/// 404; 409 for what is somebody's picture.
pub(super) async fn release(app: &AppState, owner_id: Uuid, id: Uuid) -> Result<(), ApiError> {
    let mut tx = app.db.begin().await?;
    if queries::release(&mut tx, id, owner_id).await? {
        tx.commit().await?;
        return Ok(());
    }
    match queries::find(&mut tx, id, Some(owner_id)).await? {
        Some(_) => Err(ApiError::conflict(
            "upload_in_use",
            "It is the picture of a user or product: set or delete that one.",
        )),
        None => Err(ApiError::not_found()),
    }
}

fn over_quota(app: &AppState) -> ApiError {
    ApiError::conflict(
        "upload_quota_exceeded",
        format!(
            "You may keep {} files of {} bytes together; delete some first.",
            app.uploads.quota_files, app.uploads.quota_bytes
        ),
    )
}

pub(super) fn expired() -> ApiError {
    ApiError::conflict("upload_expired", "The file was not completed in time; begin a new upload.")
}

pub(super) fn rejected(upload: &Upload) -> ApiError {
    let detail = upload.detail.clone().unwrap_or_default();
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "upload_rejected", detail)
}
