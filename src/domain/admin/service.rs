//! Use cases of job administration, each once per `Idempotency-Key`.

use http::StatusCode;
use uuid::Uuid;

use crate::{
    platform::{
        db::Tx,
        http::error::ApiError,
        idempotency::{Begun, Claim, Reply},
        jobs::admin::{self, Dead, QueueSwitch},
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
/// 409 if another with the unique key of one of them was written meanwhile.
pub(super) async fn retry_dead(
    app: &AppState,
    claim: Option<&Claim>,
    which: Dead<'_>,
) -> Result<Reply, ApiError> {
    let mut once = match app.idempotency.begin(claim).await? {
        Begun::Replay(reply) => return Ok(reply),
        Begun::Run(once) => once,
    };
    let retried = admin::retry_dead(&mut once.tx, which).await?;
    Ok(once.finish(Reply::new(StatusCode::OK, &retried)?).await?)
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
/// 404 for a queue that is not.
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

async fn switched(tx: &mut Tx, queue: &str, to: Switch) -> Result<QueueSwitch, ApiError> {
    if !admin::is_queue(tx, crate::domain::work().queues(), queue).await? {
        return Err(ApiError::not_found());
    }
    match to {
        Switch::Pause => admin::pause(tx, queue).await?,
        Switch::Resume => admin::resume(tx, queue).await?,
    }
    Ok(QueueSwitch { queue: queue.to_owned(), paused: matches!(to, Switch::Pause) })
}
