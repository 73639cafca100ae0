//! What the gate learnt about a request, and the extractors by which handlers ask for it.

use std::{fmt, net::IpAddr, sync::Arc};

use axum::extract::FromRequestParts;
use http::{header, request::Parts};

use super::{client_ip, error::ApiError, gate};
use crate::platform::{
    db::Consistency,
    rate_limit::Decision,
    sessions::{Origin, State},
    tokens::{Principal, Role},
};

/// Put into the request by the gate.
pub(super) struct Visitor {
    pub(super) gate: Arc<gate::Inner>,
    pub(super) ip: IpAddr,
    /// Whom a good token was issued to. Whether its session still lives is another question.
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) session: State,
    pub(super) decision: Decision,
    pub(super) consistency: Consistency,
}

impl Visitor {
    /// # Errors
    /// 404: the route does not stand behind the gate.
    pub(super) fn of(parts: &Parts) -> Result<&Arc<Self>, ApiError> {
        parts.extensions.get::<Arc<Self>>().ok_or_else(ApiError::not_found)
    }

    /// What limits count by while nobody is logged in.
    pub(super) fn address_bucket(&self) -> impl fmt::Display + use<> {
        address_bucket(self.ip)
    }
}

pub(super) fn address_bucket(ip: IpAddr) -> impl fmt::Display {
    let bucket = client_ip::bucket(ip);
    fmt::from_fn(move |formatter| write!(formatter, "ip:{bucket}"))
}

/// A logged-in user. 401 for everybody else.
pub struct User(pub Arc<Principal>);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let visitor = Visitor::of(parts)?;
        let principal = visitor.principal.as_ref().ok_or_else(ApiError::unauthorized)?;
        let is_live = match visitor.session {
            State::Active => true,
            State::Revoked => false,
            State::Unknown => {
                let Principal { user_id, session_id, .. } = **principal;
                let answer = visitor.gate.sessions.is_live(user_id, session_id).await;
                answer.map_err(|error| {
                    ApiError::unavailable(
                        "session_unknown",
                        "Whether your session is still valid cannot be checked right now.",
                    )
                    .because(error)
                })?
            }
        };
        if is_live { Ok(Self(principal.clone())) } else { Err(ApiError::unauthorized()) }
    }
}

/// When the token that the request came with is no longer good, in seconds since 1970: for an
/// answer that goes on for longer than a request does.
pub struct TokenEnd(pub i64);

impl<S: Sync> FromRequestParts<S> for TokenEnd {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let tokens = &Visitor::of(parts)?.gate.tokens;
        let end = gate::bearer(&parts.headers).and_then(|token| tokens.end_of(token));
        end.map(Self).ok_or_else(ApiError::unauthorized)
    }
}

/// A logged-in administrator. 403 for other users.
pub struct Admin(pub Arc<Principal>);

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let User(principal) = User::from_request_parts(parts, state).await?;
        match principal.role {
            Role::Admin => Ok(Self(principal)),
            Role::Customer => Err(ApiError::forbidden()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let ip = Visitor::of(parts)?.ip;
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        // It is shown to the user, not matched on: a prefix is enough.
        Ok(Self { ip, user_agent: agent.unwrap_or_default().chars().take(200).collect() })
    }
}

/// What a read for this visitor has to see.
impl<S: Sync> FromRequestParts<S> for Consistency {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Visitor::of(parts)?.consistency)
    }
}
