//! The layer stack, in the order in which a request passes it:
//!
//! 1. `observe`: sizes of URI and head, request id and trace, metrics, access log, headers of every
//!    response
//! 2. `protect`: panics, the deadline
//! 3. CORS, if origins are listed
//! 4. under `/v1` [`super::admission`] and the [`super::gate`]; then the route

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
    routing::Route,
};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use tokio::{sync::oneshot, time::timeout_at};
use tower::{Layer, Service, layer::layer_fn, service_fn, util::option_layer};
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

/// Whether a route takes a file, by its method and template: its deadline begins once the file may
/// have come, since a client is not slow for having a slow network.
pub type TakesFile = fn(&Method, &str) -> bool;

/// How long a write may go on after its deadline: longer than the time-outs of the database.
pub(in crate::platform) const OVERTIME: Duration = Duration::from_secs(5);

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

/// The stack, made once and put around several routers. Cheap to clone.
#[derive(Clone)]
pub struct Layers {
    edge: Arc<Edge>,
    cors: Option<CorsLayer>,
}

struct Edge {
    metrics: RouteMetrics,
    tasks: Tasks,
    request_timeout: Duration,
    body_timeout: BodyTimeout,
    takes_file: TakesFile,
}

impl Layers {
    /// # Errors
    /// A metric is registered twice.
    pub fn new(
        config: &Config,
        takes_file: TakesFile,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> prometheus::Result<Self> {
        let edge = Edge {
            metrics: RouteMetrics::new(metrics)?,
            tasks: tasks.clone(),
            request_timeout: config.request_timeout,
            body_timeout: BodyTimeout(config.body_timeout),
            takes_file,
        };
        let cors = (!config.cors_origins.is_empty()).then(|| {
            let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(config.cors_origins.clone()))
                .allow_methods(methods)
                .allow_headers(AllowHeaders::mirror_request())
                .expose_headers(EXPOSED)
        });
        Ok(Self { edge: Arc::new(edge), cors })
    }

    /// Puts the stack around `router`, and `inner` between them. All at once, since axum boxes
    /// every service, and every answer on its way, for each layer that it is given.
    pub fn around<L>(&self, router: Router, inner: L) -> Router
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request, Response = Response, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        let edge = self.edge.clone();
        let observe = layer_fn(move |inner| observed(edge.clone(), inner));
        router.layer((observe, option_layer(self.cors.clone()), inner))
    }
}

/// Health, metrics and the like: polled by machines every few seconds.
fn is_unlogged(route: &str) -> bool {
    route == "/metrics" || route.starts_with("/health")
}

/// What is behind the layer. Routes are always ready, so nothing is asked before the call.
fn observed<S>(
    edge: Arc<Edge>,
    mut inner: S,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    service_fn(move |request| edge.clone().observe(request, &mut inner))
}

impl Edge {
    fn timeout_of(&self, method: &Method, route: Option<&MatchedPath>) -> Duration {
        match route {
            Some(route) if (self.takes_file)(method, route.as_str()) => {
                self.body_timeout.0 + self.request_timeout
            }
            _ => self.request_timeout,
        }
    }

    /// Whatever needs the request is done before the future is made: a request is large, and a
    /// future would carry it about.
    fn observe<S>(
        self: Arc<Self>,
        mut request: Request,
        inner: &mut S,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<S>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let start = Instant::now();
        let in_flight = self.metrics.start();
        if !request.body().is_end_stream() {
            request.extensions_mut().insert(self.body_timeout);
        }
        let route = request.extensions().get::<MatchedPath>().cloned();
        let method = request.method().clone();
        let timeout = self.timeout_of(&method, route.as_ref());
        let context = Arc::new(read_context(request.headers(), start, timeout));
        let is_tls = request.headers().get(FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        let answer = check_size(&request).map(|()| inner.call(request));
        async move {
            let route = route.as_ref().map_or(UNKNOWN_ROUTE, MatchedPath::as_str);
            let span = span(&method, route, &context);
            let work = protect(&self.tasks, &context, method.is_safe(), answer);
            let mut response = context.clone().scope(work).instrument(span.clone()).await;
            drop(in_flight);

            let (status, took) = (response.status(), start.elapsed());
            span.record("status", status.as_u16());
            self.metrics.record(&method, route, status, took);
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
            if self.tasks.is_draining() {
                // Sends keep-alive clients elsewhere while this replica still serves.
                headers.insert(header::CONNECTION, CLOSE);
            }
            Ok(response)
        }
    }
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

/// # Errors
/// 414 and 431.
fn check_size(request: &Request) -> Result<(), ApiError> {
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri > MAX_URI_BYTES {
        return Err(ApiError::new(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            format!("An address may have {MAX_URI_BYTES} bytes."),
        ));
    }
    let head = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    if head.sum::<usize>() > MAX_HEAD_BYTES {
        return Err(ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            format!("The headers may have {MAX_HEAD_BYTES} bytes together."),
        ));
    }
    Ok(())
}

async fn protect<F>(
    tasks: &Tasks,
    context: &Arc<Context>,
    is_safe: bool,
    answer: Result<F, ApiError>,
) -> Response
where
    F: Future<Output = Result<Response, Infallible>> + Send + 'static,
{
    let answer = match answer {
        Ok(answer) => without_panic(answer),
        Err(refusal) => return refusal.into_response(),
    };
    let deadline = context.deadline;
    let answer = if is_safe {
        timeout_at(deadline.into(), answer).await
    } else {
        timeout_at(deadline.into(), to_the_end(tasks, context, answer)).await
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
        if let Ok(response) = timeout_at(end.into(), answer).await {
            // An error says that the client is gone.
            let _ = sender.send(response);
        }
    };
    tasks.spawn(context.clone().scope(work).in_current_span());
    let gone = |_| ApiError::internal(anyhow::anyhow!("the task of a request was lost"));
    receiver.await.map_err(gone).unwrap_or_else(IntoResponse::into_response)
}

async fn without_panic(work: impl Future<Output = Result<Response, Infallible>>) -> Response {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map(|Ok(response)| response).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "of unknown type".to_owned());
        ApiError::internal(anyhow::anyhow!("panic: {message}")).into_response()
    })
}
