//! Routes of payments.

use axum::{Json, extract::State};
use uuid::Uuid;

use super::{model::PaymentResponse, queries};
use crate::{
    platform::{
        db::Consistency,
        http::{
            error::{ApiError, Problem},
            params::Path,
            visitor::User,
        },
        tokens::Role,
    },
    state::AppState,
};

/// The payment of an order, once there is one
#[utoipa::path(get, path = "/v1/orders/{id}/payment", tag = "orders", security(("token" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = PaymentResponse), (status = 404, body = Problem)))]
pub(super) async fn get_payment(
    State(app): State<AppState>,
    User(principal): User,
    consistency: Consistency,
    Path(id): Path<Uuid>,
) -> Result<Json<PaymentResponse>, ApiError> {
    let owner = (principal.role != Role::Admin).then_some(principal.user_id);
    let mut conn = app.db.read(&consistency).await?;
    let payment = queries::find(&mut conn, id, owner).await?;
    Ok(Json(payment.ok_or_else(ApiError::not_found)?.into()))
}
