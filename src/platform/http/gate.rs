//! What every request of the API passes first: who is it, and may it come in now?
//!
//! The rate limit and the state of the session take one round trip to Redis, together.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use deadpool_redis::redis::FromRedisValue;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use ipnet::IpNet;

use super::{
    client_ip::{Peer, bucket, client_ip},
    error::ApiError,
    quota::{RATE_LIMIT, RATE_LIMIT_POLICY},
};
use crate::platform::{
    db::Consistency,
    rate_limit::{Decision, Policy, RateLimiter},
    sessions::{Origin, Sessions},
    tokens::{Principal, Role, Tokens},
};

/// Asking what is left must not cost any of it.
pub const RATE_LIMIT_PATH: &str = "/v1/rate-limit";

/// What the gate needs. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    tokens: Tokens,
    sessions: Sessions,
    limiter: RateLimiter,
    policy: Policy,
    policy_header: HeaderValue,
    trusted_proxies: Arc<[IpNet]>,
}

/// Who the gate took the client for.
#[derive(Clone)]
enum Identity {
    Anonymous,
    User(Arc<Principal>),
    /// The token is good, but nobody could be asked whether its session still is.
    Unknown,
}

/// The address of the client.
#[derive(Clone, Copy)]
struct ClientIp(IpAddr);

impl Gate {
    pub fn new(
        tokens: Tokens,
        sessions: Sessions,
        limiter: RateLimiter,
        policy: Policy,
        trusted_proxies: Vec<IpNet>,
    ) -> Self {
        let Policy { name, quota, window } = policy;
        let header = format!("\"{name}\";q={quota};w={}", window.as_secs());
        Self {
            tokens,
            sessions,
            limiter,
            policy,
            policy_header: super::etag::header_value(&header),
            trusted_proxies: trusted_proxies.into(),
        }
    }

    fn write_headers(&self, headers: &mut HeaderMap, decision: &Decision) {
        let name = decision.policy.name;
        let (left, reset) = (decision.remaining, decision.reset.as_secs_f64().ceil());
        headers.insert(RATE_LIMIT_POLICY, self.policy_header.clone());
        let state = format!("\"{name}\";r={left};t={reset}");
        headers.insert(RATE_LIMIT, super::etag::header_value(&state));
    }
}

/// The middleware of everything under `/v1`.
pub async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let peer = request
        .extensions()
        .get::<Peer>()
        .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let ip = client_ip(peer, request.headers(), &gate.trusted_proxies);
    let principal = bearer(request.headers()).and_then(|token| gate.tokens.verify(token));
    let question = principal.as_ref().map(|p| gate.sessions.state_command(p.session_id));
    let who = match &principal {
        Some(principal) => format!("user:{}", principal.user_id),
        None => format!("ip:{}", bucket(ip)),
    };
    let cost = u32::from(request.uri().path() != RATE_LIMIT_PATH);
    let (decision, state) = gate.limiter.check_with(gate.policy, who, cost, question).await;
    let mut response = if decision.allowed {
        let identity = match principal {
            None => Identity::Anonymous,
            Some(principal) => {
                let state = state
                    .and_then(|value| Option::<String>::from_redis_value(value).ok().flatten());
                match gate.sessions.is_live(principal.session_id, state.as_deref()).await {
                    Ok(true) => Identity::User(principal),
                    Ok(false) => Identity::Anonymous,
                    Err(_) => Identity::Unknown,
                }
            }
        };
        let extensions = request.extensions_mut();
        extensions.insert(identity);
        extensions.insert(ClientIp(ip));
        extensions.insert(decision);
        next.run(request).await
    } else {
        too_many_requests(&decision).into_response()
    };
    let headers = response.headers_mut();
    // Another limit that refused tells of itself.
    if !headers.contains_key(&RATE_LIMIT) {
        gate.write_headers(headers, &decision);
    }
    // What is public says so; everything else is somebody's.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// 429 for a decision that was a refusal.
pub fn too_many_requests(decision: &Decision) -> ApiError {
    ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        "quota_exceeded",
        format!(
            "The limit is {} requests in {} s; `Retry-After` says when to come back.",
            decision.policy.quota,
            decision.policy.window.as_secs(),
        ),
    )
    .limit(decision)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A logged-in user. 401 for everybody else.
pub struct User(pub Arc<Principal>);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<Identity>() {
            Some(Identity::User(principal)) => Ok(Self(principal.clone())),
            Some(Identity::Unknown) => Err(ApiError::unavailable(
                "session_unknown",
                "Whether your session is still valid cannot be checked right now.",
            )),
            _ => Err(ApiError::unauthorized()),
        }
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
        let ip = parts.extensions.get::<ClientIp>();
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        Ok(Self {
            ip: ip.map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |ip| ip.0),
            // It is shown to the user, not matched on: a prefix is enough.
            user_agent: agent.unwrap_or_default().chars().take(200).collect(),
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Consistency {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::Latest)
    }
}

/// What the gate decided about this request.
pub struct Limit(pub Decision);

impl<S: Sync> FromRequestParts<S> for Limit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let decision = parts.extensions.get::<Decision>().copied();
        decision.map(Self).ok_or_else(ApiError::not_found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_bearer_token_and_no_other_credentials() {
        let token = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(token("Bearer a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(token("bEARER  a.b.c ").as_deref(), Some("a.b.c"));
        for other in ["Basic a.b.c", "a.b.c", "Bearer", "", "Bearera.b.c"] {
            assert_eq!(token(other), None, "{other}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
