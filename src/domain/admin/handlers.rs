//! Routes of job administration.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::Uri;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::service::{self, Switch};
use crate::{
    platform::{
        http::{
            error::{ApiError, Problem},
            idempotent::{Idempotent, NoBody},
            pagination::{Page, PageParams},
            params::{Path, Query},
            visitor::Admin,
        },
        jobs::admin::{self, Dead, QueueState, QueueSwitch, Retried, StoredJob},
    },
    state::AppState,
};

/// All queues: there are few, so this is no page.
#[derive(Serialize, ToSchema)]
pub(super) struct Queues {
    data: Vec<QueueState>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadFilter {
    /// Of this queue only.
    queue: Option<String>,
}

/// Which dead letters to begin anew: of a queue, of a kind, or of a kind in a queue.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryDead {
    queue: Option<String>,
    #[schema(example = "payments.charge")]
    kind: Option<String>,
}

/// The queues, and what waits in them
#[utoipa::path(get, path = "/v1/admin/jobs", tag = "admin", security(("token" = [])),
    responses((status = 200, body = Queues), (status = 403, body = Problem)))]
pub(super) async fn list_queues(
    State(app): State<AppState>,
    _: Admin,
) -> Result<Response, ApiError> {
    let mut conn = app.db.primary().await?;
    let data = admin::queues(&mut conn, crate::domain::work().queues()).await?;
    Ok(Json(Queues { data }).into_response())
}

/// Dead letters, newest first
#[utoipa::path(get, path = "/v1/admin/jobs/dead", tag = "admin", security(("token" = [])),
    params(DeadFilter, PageParams),
    responses((status = 200, body = Page<StoredJob>), (status = 403, body = Problem)))]
pub(super) async fn list_dead_jobs(
    State(app): State<AppState>,
    _: Admin,
    Query(filter): Query<DeadFilter>,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let before = page.position()?.unwrap_or(Uuid::max());
    // What is done about them is decided by what is seen here: never by a replica.
    let mut conn = app.db.primary().await?;
    let dead = admin::dead(&mut conn, filter.queue.as_deref(), before, page.fetch_limit()).await?;
    drop(conn);
    Page::<StoredJob>::new(dead, page.limit, |job: &StoredJob| job.id).into_response(&uri)
}

/// A job
#[utoipa::path(get, path = "/v1/admin/jobs/{id}", tag = "admin", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = StoredJob), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(super) async fn get_job(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let job = admin::find(&mut app.db.primary().await?, id).await?;
    Ok(Json(job).into_response())
}

/// Begin a job anew that died, was discarded, or would run later
#[utoipa::path(post, path = "/v1/admin/jobs/{id}/retry", tag = "admin", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = StoredJob), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn retry_job(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    Ok(service::retry(&app, input.claim(), id).await?.into_response())
}

/// Begin dead letters anew, up to 1,000 by one request
#[utoipa::path(post, path = "/v1/admin/jobs/retry", tag = "admin", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)), request_body = RetryDead,
    responses((status = 200, body = Retried), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn retry_dead_jobs(
    State(app): State<AppState>,
    _: Admin,
    input: Idempotent<RetryDead>,
) -> Result<Response, ApiError> {
    let RetryDead { queue, kind } = &input.body;
    if queue.is_none() && kind.is_none() {
        let detail = "Name a `queue`, a `kind`, or both.";
        return Err(ApiError::invalid("", "required", detail));
    }
    let which = Dead { queue: queue.as_deref(), kind: kind.as_deref() };
    Ok(service::retry_dead(&app, input.claim(), which).await?.into_response())
}

/// End a job that does not run, without its being done
#[utoipa::path(post, path = "/v1/admin/jobs/{id}/discard", tag = "admin", security(("token" = [])),
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = StoredJob), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn discard_job(
    State(app): State<AppState>,
    _: Admin,
    Path(id): Path<Uuid>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    Ok(service::discard(&app, input.claim(), id).await?.into_response())
}

/// Begin no more jobs of a queue
#[utoipa::path(post, path = "/v1/admin/queues/{queue}/pause", tag = "admin",
    security(("token" = [])),
    params(("queue" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = QueueSwitch), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(super) async fn pause_queue(
    State(app): State<AppState>,
    _: Admin,
    Path(queue): Path<String>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    Ok(service::switch(&app, input.claim(), &queue, Switch::Pause).await?.into_response())
}

/// Begin jobs of a queue again
#[utoipa::path(post, path = "/v1/admin/queues/{queue}/resume", tag = "admin",
    security(("token" = [])),
    params(("queue" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = QueueSwitch), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(super) async fn resume_queue(
    State(app): State<AppState>,
    _: Admin,
    Path(queue): Path<String>,
    input: Idempotent<NoBody>,
) -> Result<Response, ApiError> {
    Ok(service::switch(&app, input.claim(), &queue, Switch::Resume).await?.into_response())
}
