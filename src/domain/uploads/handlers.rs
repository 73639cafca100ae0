//! Routes of uploads, and of the pictures that are made of them.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use uuid::Uuid;

use super::{
    keys,
    model::{CreateUpload, PictureForm, Purpose, SetPicture, UploadResponse},
    pictures, queries,
    receive::Picture,
    service,
};
use crate::{
    domain::{products::ProductResponse, users::UserResponse},
    platform::{
        db::Consistency,
        http::{
            error::{ApiError, Problem},
            etag::{self, IfMatch},
            file::FileOr,
            idempotent::{Idempotent, NoBody},
            params::Path,
            visitor::{Admin, User},
        },
    },
    state::AppState,
};

/// Where a picture is does not change, only the address that it is fetched from for a while.
const REDIRECT_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Announce a file
///
/// The answer says how to send it: `PUT` it to `upload.url` with `upload.headers`, then complete
/// the upload.
#[utoipa::path(post, path = "/v1/uploads", tag = "uploads", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)), request_body = CreateUpload,
    responses((status = 201, body = UploadResponse), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn create_upload(
    State(app): State<AppState>,
    User(principal): User,
    input: Idempotent<CreateUpload>,
) -> Result<Response, ApiError> {
    let reply = service::create(&app, input.claim(), &principal, &input.body).await?;
    Ok(reply.into_response())
}

/// An upload, with an address to save its file from once it is completed
#[utoipa::path(get, path = "/v1/uploads/{id}", tag = "uploads", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = UploadResponse), (status = 404, body = Problem)))]
pub(super) async fn get_upload(
    State(app): State<AppState>,
    User(principal): User,
    consistency: Consistency,
    Path(id): Path<Uuid>,
) -> Result<Json<UploadResponse>, ApiError> {
    let mut conn = app.db.read(&consistency).await?;
    let upload = queries::find(&mut conn, id, Some(principal.user_id)).await?;
    drop(conn);
    Ok(Json(service::present(&app, upload.ok_or_else(ApiError::not_found)?).await?))
}

/// Complete an upload: its file was sent
///
/// The file is verified, by its bytes: size, type, checksum if one was announced, and that pictures
/// can be decoded.
#[utoipa::path(post, path = "/v1/uploads/{id}/complete", tag = "uploads",
    security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = UploadResponse), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn complete_upload(
    State(app): State<AppState>,
    User(principal): User,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    let reply = service::complete(&app, input.claim(), principal.user_id, id).await?;
    Ok(reply.into_response())
}

/// Give up an upload
#[utoipa::path(delete, path = "/v1/uploads/{id}", tag = "uploads", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete_upload(
    State(app): State<AppState>,
    User(principal): User,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    service::release(&app, principal.user_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A picture of a user or product
///
/// `{id}` is the picture as it was uploaded; `{id}-256.webp` and `{id}-1024.webp` are no wider or
/// higher than as many pixels, and the picture itself until they are made.
#[utoipa::path(get, path = "/v1/files/{name}", tag = "uploads",
    params(("name" = String, Path)),
    responses((status = 302, description = "`Location` is good for a while."),
        (status = 404, body = Problem)))]
pub(super) async fn get_file(
    State(app): State<AppState>,
    consistency: Consistency,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let (id, edge) = keys::parse_file_name(&name).ok_or_else(ApiError::not_found)?;
    let mut conn = app.db.read(&consistency).await?;
    let mut shown = queries::find_shown(&mut conn, id).await?;
    drop(conn);
    if shown.is_none() {
        // A page that shows its owner's new picture asks for it without a token.
        shown = queries::find_shown(&mut app.db.primary().await?, id).await?;
    }
    let upload = shown.ok_or_else(ApiError::not_found)?;
    let url = service::address(&app, &upload, edge).await?;
    let location = etag::header_value(&url);
    let head = [(header::LOCATION, location), (header::CACHE_CONTROL, REDIRECT_CACHE)];
    Ok((StatusCode::FOUND, head).into_response())
}

/// Set one's own picture
///
/// Send the picture itself, up to 10 MB, raw or as the one file of a form; or name a completed
/// upload.
#[utoipa::path(put, path = "/v1/users/me/avatar", tag = "users", security(("token" = [])),
    params(("If-Match" = Option<String>, Header)),
    request_body(content((SetPicture = "application/json"), ("image/png"), ("image/jpeg"),
        ("image/webp"), (PictureForm = "multipart/form-data"))),
    responses((status = 200, body = UserResponse), (status = 408, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn set_avatar(
    State(app): State<AppState>,
    User(principal): User,
    if_match: IfMatch,
    input: FileOr<SetPicture>,
) -> Result<Response, ApiError> {
    let picture = Picture::of(&app, principal.user_id, Purpose::Avatar, input).await?;
    let user = pictures::set_avatar(&app, principal.user_id, &if_match, &picture).await?;
    let etag = [(header::ETAG, etag::of_version(user.version))];
    Ok((etag, Json(UserResponse::from(user))).into_response())
}

/// Have no picture
#[utoipa::path(delete, path = "/v1/users/me/avatar", tag = "users", security(("token" = [])),
    params(("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = 412, body = Problem)))]
pub(super) async fn delete_avatar(
    State(app): State<AppState>,
    User(principal): User,
    if_match: IfMatch,
) -> Result<StatusCode, ApiError> {
    pictures::set_avatar(&app, principal.user_id, &if_match, &Picture::Nothing).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Set the picture of a product
///
/// Send the picture itself, up to 10 MB, raw or as the one file of a form; or name a completed
/// upload.
#[utoipa::path(put, path = "/v1/products/{id}/image", tag = "products", security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    request_body(content((SetPicture = "application/json"), ("image/png"), ("image/jpeg"),
        ("image/webp"), (PictureForm = "multipart/form-data"))),
    responses((status = 200, body = ProductResponse), (status = 404, body = Problem), (status = 408, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn set_image(
    State(app): State<AppState>,
    Admin(principal): Admin,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
    input: FileOr<SetPicture>,
) -> Result<Response, ApiError> {
    let owner_id = principal.user_id;
    let picture = Picture::of(&app, owner_id, Purpose::ProductImage, input).await?;
    let product = pictures::set_image(&app, owner_id, id, &if_match, &picture).await?;
    let etag = [(header::ETAG, etag::of_version(product.version))];
    Ok((etag, Json(product)).into_response())
}

/// Take the picture of a product away
#[utoipa::path(delete, path = "/v1/products/{id}/image", tag = "products",
    security(("token" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete_image(
    State(app): State<AppState>,
    Admin(principal): Admin,
    Path(id): Path<Uuid>,
    if_match: IfMatch,
) -> Result<StatusCode, ApiError> {
    pictures::set_image(&app, principal.user_id, id, &if_match, &Picture::Nothing).await?;
    Ok(StatusCode::NO_CONTENT)
}
