//! What a user is made of.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::platform::{text::Text, tokens::Role};

/// How a user wants to be called.
pub type Name = Text<100>;

/// An e-mail address in lower case. That it has one `@` with something sensible around it is all
/// that can be known without writing to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = "email", max_length = 254)]
pub struct Email(String);

impl Email {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        let email = value.trim().to_lowercase();
        let is_plausible = email.len() <= 254
            && !email.chars().any(|c| c.is_whitespace() || c.is_control())
            && email.split_once('@').is_some_and(|(local, domain)| {
                (1..=64).contains(&local.len())
                    && domain.contains('.')
                    && !domain.contains('@')
                    && domain.split('.').all(|label| !label.is_empty())
            });
        is_plausible.then_some(Self(email)).ok_or("must be an e-mail address")
    }
}

/// A user as stored, without the password hash.
#[derive(Debug, Clone)]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    pub role: String,
    pub avatar_url: Option<String>,
    pub version: i32,
    pub created_at: OffsetDateTime,
}

impl User {
    /// A constraint keeps the column to the known roles.
    pub fn role(&self) -> Role {
        match self.role.as_str() {
            "admin" => Role::Admin,
            _ => Role::Customer,
        }
    }
}

/// A user to be stored.
pub struct NewUser<'a> {
    pub email: &'a Email,
    pub name: &'a Name,
    pub role: &'static str,
    /// PHC string.
    pub password_hash: &'a str,
}

/// A user as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserResponse {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    #[schema(example = "customer")]
    pub role: String,
    pub avatar_url: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl From<User> for UserResponse {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email,
            name: user.name,
            role: user.role,
            avatar_url: user.avatar_url,
            created_at: user.created_at,
        }
    }
}

/// What a user may change about itself. What is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateUser {
    pub name: Option<Name>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UserFilter {
    /// Exactly this address.
    #[param(value_type = Option<String>)]
    pub email: Option<Email>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_addresses() {
        let parse = |text: &str| Email::try_from(text.to_owned());
        assert_eq!(parse(" Ada@Example.ORG ").unwrap().as_str(), "ada@example.org");
        for bad in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "ada@org",
            "a b@c.d",
            "a@b@c.d",
            "a@b..d",
            "a\0@b.c",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
