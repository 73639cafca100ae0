//! What is sent to and from the routes of `auth`.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    domain::users::{Email, Name, UserResponse},
    platform::sessions::Session,
};

/// A password to be set: 8 to 128 characters, whatever they are.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = "password", min_length = 8, max_length = 128)]
pub struct Password(SecretString);

impl From<Password> for SecretString {
    fn from(password: Password) -> Self {
        password.0
    }
}

impl Password {
    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl TryFrom<String> for Password {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        (8..=128)
            .contains(&value.chars().count())
            .then(|| Self(SecretString::from(value)))
            .ok_or("must have 8 to 128 characters")
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    pub email: Email,
    pub password: Password,
    #[schema(value_type = String, min_length = 1, max_length = 100)]
    pub name: Name,
}

/// A wrong password is refused whatever its shape, so it is not parsed as one here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub email: Email,
    #[schema(value_type = String, format = "password")]
    pub password: SecretString,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    #[schema(value_type = String)]
    pub refresh_token: SecretString,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangePassword {
    #[schema(value_type = String, format = "password")]
    pub current_password: SecretString,
    pub new_password: Password,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TokenResponse {
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
    /// Good for one `POST /v1/auth/refresh`.
    pub refresh_token: String,
    pub session_id: Uuid,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RegisterResponse {
    pub user: UserResponse,
    #[serde(flatten)]
    pub tokens: TokenResponse,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionResponse {
    pub id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    pub user_agent: String,
    pub ip: String,
    /// Whether this is the session that asks.
    pub current: bool,
}

impl SessionResponse {
    pub(super) fn new(session: Session, current: Uuid) -> Self {
        Self {
            current: session.id == current,
            id: session.id,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            user_agent: session.user_agent,
            ip: session.ip,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionList {
    pub data: Vec<SessionResponse>,
}
