//! The layer stack, in the order in which a request passes it:
//!
//! 1. `observe`: request id and trace, metrics, access log, headers of every response
//! 2. `protect`: sizes of URI and head, panics, the deadline
//! 3. CORS, if origins are listed
//! 4. the router; under `/v1` also the [`super::gate`]

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::{sync::oneshot, time::timeout_at};
use tower::{Service, layer::layer_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::{Instrument, Span, field::Empty};
use uuid::Uuid;

use super::{
    error::ApiError,
    gate::CONSISTENCY_TOKEN,
    json::BodyTimeout,
    route_metrics::{RouteMetrics, UNKNOWN_ROUTE},
};
use crate::platform::{
    context::{Context, is_sane_request_id, is_traceparent},
    metrics::Metrics,
    shutdown::Tasks,
    telemetry,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Milliseconds after which the client no longer wants the answer.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How long a write may go on after its deadline: longer than the time-outs of the database.
const OVERTIME: Duration = Duration::from_secs(5);

const MAX_URI_BYTES: usize = 4 * 1024;
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the script of another origin's page may read of an answer.
const EXPOSED: [HeaderName; 10] = [
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    REQUEST_ID,
    HeaderName::from_static("idempotency-replayed"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("cache-status"),
    CONSISTENCY_TOKEN,
];

/// Nothing here is a page, so a browser need not run or frame any of it. The docs page sets its
/// own policy.
const CONTENT_SECURITY_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Two years, as the preload list wants; only behind TLS, which the proxy tells us.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000; includeSubDomains");

#[derive(Clone)]
pub struct Config {
    /// For any request; a client may ask for less.
    pub request_timeout: Duration,
    /// For the body of a request to arrive.
    pub body_timeout: Duration,
    pub cors_origins: Vec<HeaderValue>,
}

struct Edge {
    metrics: RouteMetrics,
    tasks: Tasks,
    request_timeout: Duration,
    body_timeout: BodyTimeout,
}

/// Puts the stack around `router`.
///
/// # Errors
/// A metric is registered twice.
pub fn apply(
    router: Router,
    config: &Config,
    metrics: &Metrics,
    tasks: &Tasks,
) -> prometheus::Result<Router> {
    let edge = Arc::new(Edge {
        metrics: RouteMetrics::new(metrics)?,
        tasks: tasks.clone(),
        request_timeout: config.request_timeout,
        body_timeout: BodyTimeout(config.body_timeout),
    });
    let router = if config.cors_origins.is_empty() {
        router
    } else {
        router.layer(
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(config.cors_origins.clone()))
                .allow_methods([
                    Method::GET,
                    Method::POST,
                    Method::PUT,
                    Method::PATCH,
                    Method::DELETE,
                ])
                .allow_headers(AllowHeaders::mirror_request())
                .expose_headers(EXPOSED),
        )
    };
    Ok(router.layer(layer_fn(move |inner| Observed { edge: edge.clone(), inner })))
}

/// Health, metrics and the like: polled by machines every few seconds.
fn is_unlogged(route: &str) -> bool {
    route == "/metrics" || route.starts_with("/health")
}

/// What is behind the layer. By hand rather than from a function, which would cost each request
/// three more allocations.
#[derive(Clone)]
struct Observed<S> {
    edge: Arc<Edge>,
    inner: S,
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(
        &mut self,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let edge = self.edge.clone();
        // The one that is ready, as tower wants it.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let next = move |request| {
            let answer = inner.call(request);
            async move { answer.await.unwrap_or_else(|never| match never {}) }
        };
        Box::pin(async move { Ok(observe(edge, request, next).await) })
    }
}

async fn observe<F>(
    edge: Arc<Edge>,
    mut request: Request,
    next: impl FnOnce(Request) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Response> + Send + 'static,
{
    let start = Instant::now();
    request.extensions_mut().insert(edge.body_timeout);
    let in_flight = edge.metrics.start();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(UNKNOWN_ROUTE, MatchedPath::as_str);
    let method = request.method().clone();
    let context = Arc::new(read_context(request.headers(), start, edge.request_timeout));
    let is_tls = request.headers().get(FORWARDED_PROTO).is_some_and(|proto| proto == "https");
    let span = span(&method, route, &context);
    let work = protect(&edge.tasks, &context, request, next);
    let work = context.clone().scope(work).instrument(span.clone());
    let mut response = work.await;
    drop(in_flight);

    let (status, took) = (response.status(), start.elapsed());
    span.record("status", status.as_u16());
    edge.metrics.record(&method, route, status, took);
    if !is_unlogged(route) {
        tracing::info!(
            target: "access",
            request_id = context.request_id,
            method = method.as_str(),
            route,
            status = status.as_u16(),
            duration_ms = took.as_secs_f64() * 1e3,
        );
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, super::etag::header_value(&context.request_id));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(CONTENT_SECURITY_POLICY);
    if is_tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    if edge.tasks.is_draining() {
        // Sends keep-alive clients elsewhere while this replica still serves.
        headers.insert(header::CONNECTION, CLOSE);
    }
    response
}

/// For the collector; without one it is none, and costs nothing.
fn span(method: &Method, route: &str, context: &Context) -> Span {
    let request_id = &context.request_id;
    let span = tracing::info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        %request_id,
        %method,
        route,
        status = Empty
    );
    telemetry::continue_trace(&span, context.traceparent.as_deref());
    span
}

fn read_context(headers: &HeaderMap, start: Instant, limit: Duration) -> Context {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let wanted = text(&REQUEST_TIMEOUT).and_then(|millis| millis.parse().ok());
    let limit = wanted.map_or(limit, |millis| limit.min(Duration::from_millis(millis)));
    let request_id = text(&REQUEST_ID)
        .filter(|id| is_sane_request_id(id))
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let traceparent = text(&TRACEPARENT).filter(|value| is_traceparent(value)).map(str::to_owned);
    Context::new(request_id, traceparent, start + limit)
}

async fn protect<F>(
    tasks: &Tasks,
    context: &Arc<Context>,
    request: Request,
    next: impl FnOnce(Request) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Response> + Send + 'static,
{
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri > MAX_URI_BYTES {
        return ApiError::new(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            format!("An address may have {MAX_URI_BYTES} bytes."),
        )
        .into_response();
    }
    let head = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    if head.sum::<usize>() > MAX_HEAD_BYTES {
        return ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            format!("The headers may have {MAX_HEAD_BYTES} bytes together."),
        )
        .into_response();
    }
    let deadline = context.deadline;
    let answer = if request.method().is_safe() {
        timeout_at(deadline.into(), without_panic(next(request))).await
    } else {
        timeout_at(deadline.into(), to_the_end(tasks, context, next(request))).await
    };
    answer.unwrap_or_else(|_| {
        ApiError::unavailable(
            "deadline_exceeded",
            "This took longer than it may; whether a change was saved is unknown. Repeat it with \
             the same Idempotency-Key.",
        )
        .into_response()
    })
}

/// Runs what may change something on a task of its own, so that a client that hangs up cannot
/// cut it between its commit and what has to follow, such as telling the caches. It ends all the
/// same, a little after the deadline: a server that fell silent must not hold its connection.
async fn to_the_end(
    tasks: &Tasks,
    context: &Arc<Context>,
    answer: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let (sender, receiver) = oneshot::channel();
    let end = context.deadline + OVERTIME;
    let work = async move {
        if let Ok(response) = timeout_at(end.into(), without_panic(answer)).await {
            // An error says that the client is gone.
            let _ = sender.send(response);
        }
    };
    tasks.spawn(context.clone().scope(work).in_current_span());
    let gone = |_| ApiError::internal(anyhow::anyhow!("the task of a request was lost"));
    receiver.await.map_err(gone).unwrap_or_else(IntoResponse::into_response)
}

async fn without_panic(work: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "of unknown type".to_owned());
        ApiError::internal(anyhow::anyhow!("panic: {message}")).into_response()
    })
}
