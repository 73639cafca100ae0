//! Use cases of `auth`.

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{
    limits,
    model::{ChangePassword, Login, Password, Register, TokenResponse},
};
use crate::{
    domain::users::{self, NewUser, User},
    platform::{
        db::OnConstraint,
        events::{self, NewEvent},
        http::error::ApiError,
        sessions::{Grant, Origin},
        tokens::{Principal, Role},
    },
    state::AppState,
};

/// Makes a user and logs it in.
///
/// # Errors
/// 409 when the address is taken, 422 for a common password.
pub(super) async fn register(
    app: &AppState,
    input: Register,
    origin: &Origin,
) -> Result<(User, TokenResponse), ApiError> {
    limits::spend_address(app, origin.ip).await?;
    refuse_common(app, &input.password, "/password")?;
    let hash = app.passwords.hash(input.password.into()).await?;
    let new =
        NewUser { email: &input.email, name: &input.name, role: "customer", password_hash: &hash };
    let mut tx = app.db.begin().await?;
    let user = users::insert(&mut tx, &new).await.on_constraint("users_email_key", || {
        ApiError::conflict("email_taken", "There is an account with this address already.")
    })?;
    let event = NewEvent {
        kind: "user.registered",
        subject_id: user.id,
        sequence: user.version,
        customer_id: Some(user.id),
        data: &serde_json::json!({ "user_id": user.id, "name": user.name }),
    };
    events::emit(&mut tx, &event)?;
    let grant = app.sessions.begin(&mut tx, user.id, origin).await?;
    tx.commit().await?;
    limits::forgive_account(app, &input.email, origin.ip).await;
    let tokens = issue(app, &grant, user.role())?;
    Ok((user, tokens))
}

/// Begins a session for whoever knows the password.
///
/// # Errors
/// 401, the same and equally late whether the address or the password is wrong; 429.
pub(super) async fn login(
    app: &AppState,
    input: Login,
    origin: &Origin,
) -> Result<TokenResponse, ApiError> {
    limits::spend_address(app, origin.ip).await?;
    limits::spend_account(app, &input.email, origin.ip).await?;
    let mut conn = app.db.primary().await?;
    let found = users::find_credentials(&mut conn, &input.email).await?;
    // Hashing takes tens of milliseconds: the connection is for others meanwhile.
    drop(conn);
    let (user, hash) = found.unzip();
    let matches = app.passwords.verify(input.password, hash.clone()).await?;
    let Some(user) = user.filter(|_| matches) else {
        return Err(ApiError::unauthorized());
    };
    limits::forgive_account(app, &input.email, origin.ip).await;
    let mut tx = app.db.begin().await?;
    // A change of the password ends the sessions it finds: none may begin behind its back.
    if users::lock_password_hash(&mut tx, user.id).await? != hash {
        return Err(ApiError::unauthorized());
    }
    let grant = app.sessions.begin(&mut tx, user.id, origin).await?;
    tx.commit().await?;
    issue(app, &grant, user.role())
}

/// Trades a refresh token for a new pair.
///
/// # Errors
/// 401 for a token that is not good any more.
pub(super) async fn refresh(
    app: &AppState,
    token: &SecretString,
) -> Result<TokenResponse, ApiError> {
    let mut tx = app.db.begin().await?;
    let Some(grant) = app.sessions.refresh(&mut tx, token).await? else {
        drop(tx);
        app.sessions.refuse(token).await?;
        return Err(ApiError::unauthorized());
    };
    // Within the transaction: a token is only spent if its successor can be handed out.
    let user = users::find(&mut tx, grant.user_id).await?;
    let user = user.ok_or_else(ApiError::unauthorized)?;
    tx.commit().await?;
    issue(app, &grant, user.role())
}

/// Ends all sessions of a user but the current one, if that is to stay.
///
/// # Errors
/// The database cannot be reached.
pub(super) async fn end_sessions(app: &AppState, user_id: Uuid) -> Result<(), ApiError> {
    let mut tx = app.db.begin().await?;
    let ended = app.sessions.revoke_all(&mut tx, user_id, None).await?;
    tx.commit().await?;
    app.sessions.spread_revocation(user_id, &ended).await;
    Ok(())
}

/// Sets a new password and ends the user's other sessions.
///
/// # Errors
/// 422 when the current password is wrong or the new one common; 429.
pub(super) async fn change_password(
    app: &AppState,
    principal: &Principal,
    origin: &Origin,
    input: ChangePassword,
) -> Result<(), ApiError> {
    refuse_common(app, &input.new_password, "/new_password")?;
    let mut conn = app.db.primary().await?;
    let user = users::find(&mut conn, principal.user_id).await?;
    let verified = users::find_password_hash(&mut conn, principal.user_id).await?;
    drop(conn);
    let user = user.ok_or_else(ApiError::unauthorized)?;
    let verified = verified.ok_or_else(ApiError::unauthorized)?;
    // A stolen access token must not make guessing the password free.
    let email = users::Email::try_from(user.email).map_err(|why| {
        ApiError::internal(anyhow::anyhow!("stored address of {}: {why}", user.id))
    })?;
    limits::spend_account(app, &email, origin.ip).await?;
    if !app.passwords.verify(input.current_password, Some(verified.clone())).await? {
        return Err(ApiError::invalid(
            "/current_password",
            "wrong_password",
            "is not your current password",
        ));
    }
    limits::forgive_account(app, &email, origin.ip).await;
    let hash = app.passwords.hash(input.new_password.into()).await?;
    let mut tx = app.db.begin().await?;
    // A change that was under way at the same time has ended this one's session, or will.
    if !users::replace_password_hash(&mut tx, principal.user_id, &verified, &hash).await? {
        return Err(ApiError::unauthorized());
    }
    let current = Some(principal.session_id);
    let ended = app.sessions.revoke_all(&mut tx, principal.user_id, current).await?;
    tx.commit().await?;
    app.sessions.spread_revocation(principal.user_id, &ended).await;
    Ok(())
}

fn refuse_common(app: &AppState, password: &Password, pointer: &str) -> Result<(), ApiError> {
    if app.passwords.is_common(password.secret().expose_secret()) {
        return Err(ApiError::invalid(
            pointer,
            "common_password",
            "is among the passwords that are guessed first; choose another",
        ));
    }
    Ok(())
}

fn issue(app: &AppState, grant: &Grant, role: Role) -> Result<TokenResponse, ApiError> {
    let principal = Principal { user_id: grant.user_id, session_id: grant.session_id, role };
    let (access_token, expires_in) = app.tokens.issue(&principal).map_err(ApiError::internal)?;
    Ok(TokenResponse {
        access_token,
        token_type: "Bearer",
        expires_in,
        refresh_token: grant.refresh_token.expose_secret().to_owned(),
        session_id: grant.session_id,
    })
}
