//! The one error that leaves the process: a problem document (RFC 9457).
//!
//! Everything a handler can run into converts into [`ApiError`]; `?` does the rest. What went
//! wrong inside is logged here, once, and never shown.

use std::{borrow::Cow, fmt, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits;
use crate::platform::{
    cache, context::Context, db, idempotency, passwords, rate_limit::Decision, redis, storage,
};

/// An error as the client gets it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    /// A stable slug that programs may compare.
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    /// The limit that refused, told in the headers.
    limit: Option<Box<Decision>>,
    /// For the log only.
    cause: Option<anyhow::Error>,
}

/// For logs and the errors of jobs: a client gets the document.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause:#})"))
    }
}

/// One field that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body (RFC 6901), or `?name` for a parameter of the query.
    pub pointer: String,
    pub code: &'static str,
    pub detail: String,
}

/// `application/problem+json`
#[derive(Serialize, ToSchema)]
pub struct Problem<'a> {
    /// A URI that identifies the kind of problem.
    r#type: Cow<'a, str>,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// This occurrence.
    instance: String,
    /// A stable slug that programs may compare.
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl ApiError {
    pub fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            limit: None,
            cause: None,
        }
    }

    /// Whether the same request would fail again: the fault is in what was asked for.
    pub fn is_lasting(&self) -> bool {
        self.status.is_client_error()
            && !matches!(self.status, StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS)
    }

    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The same for every cause, so that it tells an attacker nothing.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Valid credentials are needed: log in, then send `Authorization: Bearer <token>`.",
        )
    }

    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "This needs another role.")
    }

    /// The same whether it never existed or belongs to somebody else.
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is nothing here, or nothing that you may see.",
        )
    }

    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub fn precondition_failed() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "It has changed since: get it again and decide anew.",
        )
    }

    /// Input that was understood but is not acceptable.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let mut error = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "validation_failed",
            "The request is not acceptable; `errors` says what to change.",
        );
        error.errors = errors;
        error
    }

    /// One wrong field.
    pub fn invalid(
        pointer: impl Into<String>,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self::validation(vec![FieldError { pointer: pointer.into(), code, detail: detail.into() }])
    }

    /// A dependency is away or the service is too busy: the same request may work soon.
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(Duration::from_secs(1))
    }

    /// More than can be done in time; it was refused before any work was spent on it.
    pub fn overloaded(detail: &'static str) -> Self {
        Self::unavailable("overloaded", detail)
    }

    /// A mistake of ours. `cause` goes to the log.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on our side; the request id helps us to find it.",
        )
        .because(cause)
    }

    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub fn limit(mut self, decision: &Decision) -> Self {
        self.limit = Some(Box::new(*decision));
        self.retry_after(decision.retry_after)
    }

    pub fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    fn log(&self) {
        let (status, code) = (self.status.as_u16(), self.code);
        let cause = self.cause.as_ref().map(|cause| format!("{cause:#}"));
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(status, code, cause, "request failed");
        } else if self.code == "overloaded" && cause.is_none() {
            // Counted where it was refused. A warning for each would cost more than it did.
            tracing::debug!(status, code, "request shed");
        } else if self.status.is_server_error() {
            tracing::warn!(status, code, cause, "request failed");
        } else if matches!(self.status.as_u16(), 401 | 403 | 429) {
            tracing::info!(status, code, cause, "request denied");
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let context = Context::current();
        let request_id = context.as_ref().map_or("", |context| &context.request_id);
        let kind = if self.status == StatusCode::TOO_MANY_REQUESTS {
            "https://iana.org/assignments/http-problem-types#quota-exceeded".into()
        } else {
            Cow::Owned(format!("urn:shoal:problem:{}", self.code))
        };
        let problem = Problem {
            r#type: kind,
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: format!("urn:shoal:request:{request_id}"),
            code: self.code,
            request_id,
            errors: &self.errors,
        };
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(delay) = self.retry_after {
            // Rounded up: a client that comes back early is refused again.
            let seconds = delay.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(decision) = self.limit {
            limits::write_headers(headers, &decision);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

impl From<db::Error> for ApiError {
    fn from(error: db::Error) -> Self {
        Self::of_database(&error).because(error)
    }
}

impl From<cache::Error> for ApiError {
    fn from(error: cache::Error) -> Self {
        match error {
            cache::Error::Load(error) => Self::of_database(&error).because(error),
            cache::Error::Overloaded => {
                Self::overloaded("Too many requests at once; try again shortly.").because(error)
            }
        }
    }
}

impl ApiError {
    fn of_database(error: &db::Error) -> Self {
        match error {
            db::Error::Busy(_) => Self::overloaded("Too many requests at once; try again shortly."),
            db::Error::Unreachable(..) | db::Error::Unavailable(_) => Self::unavailable(
                "database_unavailable",
                "The database cannot do this right now; try again shortly.",
            ),
            db::Error::OutcomeUnknown(_) => Self::unavailable(
                "outcome_unknown",
                "The connection broke while the change was being saved. Repeat the request with \
                 the same Idempotency-Key to learn the outcome.",
            ),
            db::Error::Constraint { .. } | db::Error::Aborted | db::Error::Bug(_) => {
                Self::internal(anyhow::anyhow!("the database refused"))
            }
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        db::Error::from(error).into()
    }
}

impl From<redis::Unavailable> for ApiError {
    fn from(error: redis::Unavailable) -> Self {
        Self::unavailable(
            "redis_unavailable",
            "What this asks for is in Redis, which does not answer right now; try again shortly.",
        )
        .because(error)
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}

impl From<passwords::Error> for ApiError {
    fn from(error: passwords::Error) -> Self {
        match error {
            passwords::Error::Busy => {
                Self::overloaded("Too many log-ins at once; try again shortly.")
            }
            passwords::Error::Bug(cause) => Self::internal(cause),
        }
    }
}

impl From<storage::Error> for ApiError {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::Busy => {
                Self::overloaded("Too many files are on their way; try again shortly.")
            }
            error => Self::unavailable(
                "storage_unavailable",
                "Files cannot be reached right now; try again shortly.",
            )
            .because(error),
        }
    }
}

impl From<idempotency::Error> for ApiError {
    fn from(error: idempotency::Error) -> Self {
        match error {
            idempotency::Error::InFlight => Self::conflict(
                "idempotency_key_in_flight",
                "The first request with this Idempotency-Key is still running.",
            )
            .retry_after(Duration::from_secs(1)),
            idempotency::Error::Mismatch => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "This Idempotency-Key came with another body before. Use a new key for a new \
                 request.",
            ),
            idempotency::Error::Database(error) => error.into(),
        }
    }
}
