//! Routes of `auth`.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use uuid::Uuid;

use super::{
    model::{
        ChangePassword, Login, Refresh, Register, RegisterResponse, SessionList, SessionResponse,
        TokenResponse,
    },
    service,
};
use crate::{
    platform::{
        http::{
            error::{ApiError, Problem},
            json,
            params::Path,
            visitor::User,
        },
        sessions::Origin,
    },
    state::AppState,
};

/// Make an account and log in
#[utoipa::path(post, path = "/v1/auth/register", tag = "auth", request_body = Register,
    responses((status = 201, body = RegisterResponse), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn register(
    State(app): State<AppState>,
    origin: Origin,
    json::Json(input): json::Json<Register>,
) -> Result<Response, ApiError> {
    let (user, tokens) = service::register(&app, input, &origin).await?;
    let body = Json(RegisterResponse { user: user.into(), tokens });
    let location = [(header::LOCATION, "/v1/users/me")];
    Ok((StatusCode::CREATED, location, body).into_response())
}

/// Log in
#[utoipa::path(post, path = "/v1/auth/login", tag = "auth", request_body = Login,
    responses((status = 200, body = TokenResponse), (status = 401, body = Problem),
        (status = 429, body = Problem)))]
pub(super) async fn login(
    State(app): State<AppState>,
    origin: Origin,
    json::Json(input): json::Json<Login>,
) -> Result<Response, ApiError> {
    let tokens = service::login(&app, input, &origin).await?;
    Ok(Json(tokens).into_response())
}

/// Trade a refresh token for new tokens
#[utoipa::path(post, path = "/v1/auth/refresh", tag = "auth", request_body = Refresh,
    responses((status = 200, body = TokenResponse), (status = 401, body = Problem)))]
pub(super) async fn refresh(
    State(app): State<AppState>,
    json::Json(input): json::Json<Refresh>,
) -> Result<Response, ApiError> {
    let tokens = service::refresh(&app, &input.refresh_token).await?;
    Ok(Json(tokens).into_response())
}

/// End this session
#[utoipa::path(post, path = "/v1/auth/logout", tag = "auth", security(("token" = [])),
    responses((status = 204), (status = 401, body = Problem)))]
pub(super) async fn logout(
    State(app): State<AppState>,
    User(principal): User,
) -> Result<StatusCode, ApiError> {
    app.sessions.revoke(principal.user_id, principal.session_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One's live sessions
#[utoipa::path(get, path = "/v1/auth/sessions", tag = "auth", security(("token" = [])),
    responses((status = 200, body = SessionList), (status = 401, body = Problem)))]
pub(super) async fn list_sessions(
    State(app): State<AppState>,
    User(principal): User,
) -> Result<Response, ApiError> {
    let sessions = app.sessions.list(principal.user_id).await?;
    let data = sessions
        .into_iter()
        .map(|session| SessionResponse::new(session, principal.session_id))
        .collect();
    Ok(Json(SessionList { data }).into_response())
}

/// End one of one's sessions
#[utoipa::path(delete, path = "/v1/auth/sessions/{id}", tag = "auth", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete_session(
    State(app): State<AppState>,
    User(principal): User,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    if app.sessions.revoke(principal.user_id, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found())
    }
}

/// End all of one's sessions
#[utoipa::path(delete, path = "/v1/auth/sessions", tag = "auth", security(("token" = [])),
    responses((status = 204), (status = 401, body = Problem)))]
pub(super) async fn delete_sessions(
    State(app): State<AppState>,
    User(principal): User,
) -> Result<StatusCode, ApiError> {
    service::end_sessions(&app, principal.user_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change one's password
#[utoipa::path(post, path = "/v1/auth/password", tag = "auth", security(("token" = [])),
    request_body = ChangePassword,
    responses((status = 204), (status = 422, body = Problem), (status = 429, body = Problem)))]
pub(super) async fn change_password(
    State(app): State<AppState>,
    User(principal): User,
    origin: Origin,
    json::Json(input): json::Json<ChangePassword>,
) -> Result<StatusCode, ApiError> {
    service::change_password(&app, &principal, &origin, input).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The public keys of access tokens
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "auth",
    responses((status = 200, description = "A JSON Web Key Set (RFC 7517)")))]
pub(super) async fn list_keys(State(app): State<AppState>) -> Response {
    let head = [(header::CACHE_CONTROL, "public, max-age=300")];
    (head, Json(app.tokens.key_set())).into_response()
}
