//! What every request of the API passes first: who is it, may it come in now, and what does it
//! have to see?
//!
//! The rate limit, the state of the session and the user's position take one round trip to
//! Redis, together.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use ipnet::IpNet;
use tower::{Layer, Service, layer::layer_fn, service_fn};

use super::{
    client_ip::{Peer, client_ip},
    etag::header_value,
    limits,
    visitor::{Visitor, address_bucket},
};
use crate::platform::{
    cache::LONGEST_LIFE,
    consistency::{Positions, Token},
    context::Context,
    db::{Consistency, Lsn},
    rate_limit::{Policy, RateLimiter},
    sessions::{Sessions, State as Session, user_tag},
    tokens::{Principal, Tokens},
};

pub(super) const CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static("consistency-token");

/// The layer before everything under `/v1`. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) tokens: Tokens,
    pub(super) sessions: Sessions,
    positions: Positions,
    pub(super) limiter: RateLimiter,
    pub(super) policies: Policies,
    trusted_proxies: Vec<IpNet>,
}

/// How much each visitor may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Policies {
    /// Reads.
    pub default: Policy,
    /// Whatever may change something.
    pub write: Policy,
}

impl Gate {
    pub fn new(
        tokens: Tokens,
        sessions: Sessions,
        positions: Positions,
        limiter: RateLimiter,
        policies: Policies,
        trusted_proxies: Vec<IpNet>,
    ) -> Self {
        let inner = Inner { tokens, sessions, positions, limiter, policies, trusted_proxies };
        Self { inner: Arc::new(inner) }
    }

    /// The layer. Routes are always ready, so nothing is asked of them before the call.
    pub fn layer<S>(
        self,
    ) -> impl Layer<
        S,
        Service = impl Service<Request, Response = Response, Error = S::Error, Future: Send>
                  + Clone
                  + Send
                  + Sync,
    > + Clone
    where
        S: Service<Request, Response = Response, Error: Send, Future: Send> + Clone + Send + Sync,
    {
        layer_fn(move |inner: S| {
            let gate = self.inner.clone();
            // What is large is boxed once, here: layers around it would copy it about.
            service_fn(move |request| Box::pin(gate.clone().pass(request, inner.clone())))
        })
    }
}

impl Inner {
    async fn pass<S>(self: Arc<Self>, request: Request, mut inner: S) -> Result<Response, S::Error>
    where
        S: Service<Request, Response = Response>,
    {
        let (mut head, body) = request.into_parts();
        // Nobody needs it any longer. With it, one more than a request's extensions have room for.
        let peer = head.extensions.remove::<Peer>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let visitor = Arc::new(self.receive(&head, peer).await);
        let response = if visitor.decision.allowed {
            head.extensions.insert(visitor.clone());
            inner.call(Request::from_parts(head, body)).await?
        } else {
            limits::too_many_requests(&visitor.decision).into_response()
        };
        Ok(self.see_off(&visitor, response).await)
    }

    async fn receive(self: &Arc<Self>, head: &Parts, peer: IpAddr) -> Visitor {
        let headers = &head.headers;
        let ip = client_ip(peer, headers, &self.trusted_proxies);
        let principal = bearer(headers).and_then(|token| self.tokens.verify(token));
        let Policies { default, write } = self.policies;
        let policy = if head.method.is_safe() { default } else { write };
        // Asking what is left must not cost any of it.
        let cost = u32::from(head.uri.path() != limits::RATE_LIMIT_PATH);
        let token = headers
            .get(CONSISTENCY_TOKEN)
            .map(|token| token.to_str().ok().and_then(|token| self.positions.verify(token)));
        let (decision, session, consistency) = match &principal {
            None => {
                let who = address_bucket(ip);
                let (decision, _) = self.limiter.check_and_get(policy, who, cost, &[]).await;
                (decision, Session::Unknown, of_anonymous(token.flatten()))
            }
            Some(principal) => {
                let Principal { user_id, session_id, .. } = &**principal;
                let session = self.sessions.key(*user_id, *session_id);
                let keys = [session.as_str(), &self.positions.key(*user_id)];
                let who = user_tag(*user_id);
                let (decision, found) = self.limiter.check_and_get(policy, who, cost, &keys).await;
                let value = |index: usize| found.as_ref()?.get(index)?.as_deref();
                let session = Session::parse(value(0));
                let consistency = match found.is_some() {
                    true if !self.positions.is_unstored(*user_id) => of_user(token, value(1)),
                    // Nobody knows what the user has written.
                    _ => Consistency::Latest,
                };
                (decision, session, consistency)
            }
        };
        Visitor { gate: self.clone(), ip, principal, session, decision, consistency }
    }

    /// Tells what is left, and keeps what the user has written.
    async fn see_off(&self, visitor: &Visitor, mut response: Response) -> Response {
        if let Some(context) = Context::current()
            && let Some(lsn) = context.committed()
        {
            if let Some(principal) = &visitor.principal {
                self.positions.advance(principal.user_id, lsn).await;
            }
            if response.status().is_success() {
                let token = if context.has_left_stale() {
                    Token::uncached(lsn, LONGEST_LIFE)
                } else {
                    Token::new(lsn)
                };
                let token = header_value(&self.positions.sign(&token));
                response.headers_mut().insert(CONSISTENCY_TOKEN, token);
            }
        }
        let headers = response.headers_mut();
        limits::write_headers(headers, &visitor.decision);
        // What is public says so; everything else is somebody's.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response
    }
}

/// Nobody's reads need to see more than the token says. One that is not ours says nothing.
fn of_anonymous(token: Option<Token>) -> Consistency {
    match token {
        None => Consistency::Any,
        Some(token) if token.is_uncached() => Consistency::Uncached,
        Some(token) => Consistency::AtLeast(token.lsn),
    }
}

/// A user sees what any of its devices wrote, as far as Redis knows, and what the token says.
/// Whatever is missing or wrong may hide a write, which only the primary surely has.
fn of_user(token: Option<Option<Token>>, position: Option<&str>) -> Consistency {
    let lsn = match token {
        Some(Some(token)) if token.is_uncached() => return Consistency::Uncached,
        Some(Some(token)) => token.lsn,
        Some(None) => return Consistency::Latest,
        None => Lsn::default(),
    };
    match position.map(Lsn::from_sortable) {
        Some(Some(position)) => Consistency::AtLeast(lsn.max(position)),
        Some(None) => Consistency::Latest,
        // Nothing was asked or written for a while, as is usual, or Redis lost what it knew.
        None => Consistency::LatestElse(lsn),
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
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

    #[test]
    fn the_newest_of_all_that_is_known_has_to_be_seen() {
        let token = |lsn| Some(Some(Token::new(Lsn(lsn))));
        assert_eq!(of_user(None, Some("1e")), Consistency::AtLeast(Lsn(30)));
        assert_eq!(of_user(token(40), Some("1e")), Consistency::AtLeast(Lsn(40)));
        assert_eq!(of_user(token(10), Some("1e")), Consistency::AtLeast(Lsn(30)));
        assert_eq!(of_user(None, None), Consistency::LatestElse(Lsn(0)));
        assert_eq!(of_user(token(40), None), Consistency::LatestElse(Lsn(40)));
        // A forged token or nonsense may hide a write.
        assert_eq!(of_user(Some(None), Some("1e")), Consistency::Latest);
        assert_eq!(of_user(None, Some("x")), Consistency::Latest);
    }

    #[test]
    fn without_a_user_the_token_alone_counts() {
        assert_eq!(of_anonymous(None), Consistency::Any);
        assert_eq!(of_anonymous(Some(Token::new(Lsn(7)))), Consistency::AtLeast(Lsn(7)));
        let stale = Token::uncached(Lsn(7), std::time::Duration::from_secs(9));
        assert_eq!(of_anonymous(Some(stale)), Consistency::Uncached);
    }
}
