//! Routes of users.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri, header};
use uuid::Uuid;

use super::{
    model::{UpdateUser, User, UserFilter, UserResponse},
    queries,
};
use crate::{
    platform::{
        db::Consistency,
        http::{
            error::{ApiError, Problem},
            etag::{self, IfMatch},
            json,
            pagination::{Page, PageParams},
            params::{Path, Query},
            visitor::{self, Admin},
        },
    },
    state::AppState,
};

/// Oneself
#[utoipa::path(get, path = "/v1/users/me", tag = "users", security(("token" = [])),
    responses((status = 200, body = UserResponse), (status = 401, body = Problem)))]
pub(super) async fn get_me(
    State(app): State<AppState>,
    visitor::User(principal): visitor::User,
    consistency: Consistency,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = app.db.read(&consistency).await?;
    let user = queries::find(&mut conn, principal.user_id).await?;
    Ok(respond(user.ok_or_else(ApiError::not_found)?, &headers))
}

/// Change oneself
#[utoipa::path(patch, path = "/v1/users/me", tag = "users", security(("token" = [])),
    request_body = UpdateUser,
    responses((status = 200, body = UserResponse), (status = 412, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn update_me(
    State(app): State<AppState>,
    visitor::User(principal): visitor::User,
    if_match: IfMatch,
    json::Json(input): json::Json<UpdateUser>,
) -> Result<Response, ApiError> {
    let mut tx = app.db.begin().await?;
    let version = queries::find_version_for_update(&mut tx, principal.user_id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    let name = input.name.as_ref().map(|name| name.as_str());
    let updated = queries::update(&mut tx, principal.user_id, name).await?;
    tx.commit().await?;
    Ok(respond(updated, &HeaderMap::new()))
}

/// A user
#[utoipa::path(get, path = "/v1/users/{id}", tag = "users", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = UserResponse), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(super) async fn get_user(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut conn = app.db.read(&consistency).await?;
    let user = queries::find(&mut conn, id).await?;
    Ok(respond(user.ok_or_else(ApiError::not_found)?, &headers))
}

/// Users, newest first
#[utoipa::path(get, path = "/v1/users", tag = "users", security(("token" = [])),
    params(UserFilter, PageParams),
    responses((status = 200, body = Page<UserResponse>), (status = 403, body = Problem)))]
pub(super) async fn list_users(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    Query(filter): Query<UserFilter>,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut conn = app.db.read(&consistency).await?;
    let rows = match &filter.email {
        Some(email) => queries::find_by_email(&mut conn, email).await?.into_iter().collect(),
        None => {
            let before = page.position()?.unwrap_or(Uuid::max());
            queries::list_page(&mut conn, before, page.fetch_limit()).await?
        }
    };
    Page::<UserResponse>::new(rows, page.limit, |user: &User| user.id).into_response(&uri)
}

fn respond(user: User, headers: &HeaderMap) -> Response {
    let etag = etag::of_version(user.version);
    let head = [(header::ETAG, etag.clone())];
    if etag::matches_none(headers, &etag) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, Json(UserResponse::from(user))).into_response()
}
