//! The route that tells who runs.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    platform::{
        fleet::Listed,
        http::{
            error::{ApiError, Problem},
            visitor::Admin,
        },
    },
    state::AppState,
};

/// All processes: there are few, so this is no page.
#[derive(Serialize, ToSchema)]
pub(super) struct Members {
    data: Vec<Listed>,
}

/// The replicas and workers that run, and how they are
#[utoipa::path(get, path = "/v1/admin/fleet", tag = "admin", security(("token" = [])),
    responses((status = 200, body = Members), (status = 403, body = Problem),
        (status = 503, description = "Redis, which has the list, is away", body = Problem)))]
pub(super) async fn list_fleet(
    State(app): State<AppState>,
    _: Admin,
) -> Result<Response, ApiError> {
    let data = app.fleet.list().await?;
    Ok(Json(Members { data }).into_response())
}
