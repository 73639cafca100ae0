//! Use cases of job administration, each once per `Idempotency-Key`.

use http::StatusCode;
use uuid::Uuid;

use crate::{
    platform::{
        db::Tx,
        http::error::ApiError,
        idempotency::{Begun, Claim, Reply},
        jobs::admin::{self, QueueState},
    },
    state::AppState,
};

/// What is to become of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Switch {
    Pause,
    Resume,
}

/// # Errors
/// 404, 409 while the job runs or once it is done.
pub(super) async fn retry(
    app: &AppState,
    claim: Option<&Claim>,
    id: Uuid,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let job = admin::retry(&mut once.tx, id).await?;
    Ok(once.finish(Reply::new(StatusCode::OK, &job)?).await?)
}

/// # Errors
/// 404, 409 while the job runs or once it is done.
pub(super) async fn discard(
    app: &AppState,
    claim: Option<&Claim>,
    id: Uuid,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let job = admin::discard(&mut once.tx, id).await?;
    Ok(once.finish(Reply::new(StatusCode::OK, &job)?).await?)
}

/// # Errors
/// 404 for a queue that is not, and has no jobs.
pub(super) async fn switch(
    app: &AppState,
    claim: Option<&Claim>,
    queue: &str,
    to: Switch,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let state = switched(&mut once.tx, queue, to).await?;
    Ok(once.finish(Reply::new(StatusCode::OK, &state)?).await?)
}

async fn switched(tx: &mut Tx, queue: &str, to: Switch) -> Result<QueueState, ApiError> {
    let known = admin::queues(tx, crate::domain::work().queues()).await?;
    let state = known.into_iter().find(|state| state.queue == queue);
    let state = state.ok_or_else(ApiError::not_found)?;
    match to {
        Switch::Pause => admin::pause(tx, queue).await?,
        Switch::Resume => admin::resume(tx, queue).await?,
    }
    Ok(QueueState { paused: matches!(to, Switch::Pause), ..state })
}
