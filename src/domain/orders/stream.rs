//! The live stream of one's own orders.

use std::time::{Duration, Instant};

use axum::{extract::State, response::Response};
use futures::FutureExt;
use http::HeaderMap;
use time::OffsetDateTime;
use uuid::Uuid;

use super::queries;
use crate::{
    platform::{
        http::{
            error::{ApiError, Problem},
            visitor::{TokenEnd, User},
        },
        streams::{CatchUp, Checkpoint, Reader},
    },
    state::AppState,
};

/// The events of all orders begin with it.
const KINDS: &str = "order.";

/// What happens to one's orders, as it happens (server-sent events)
///
/// Comes back after a break with `Last-Event-ID` to get what happened meanwhile; an event that comes
/// twice has the same `id` in its data.
#[utoipa::path(get, path = "/v1/events/stream", tag = "orders", security(("token" = [])),
    params(("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, body = String, content_type = "text/event-stream"),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn stream_events(
    State(app): State<AppState>,
    User(principal): User,
    TokenEnd(end): TokenEnd,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let seen = Checkpoint::read(&headers)?;
    // First: whatever is committed from here on is heard of.
    let stream = app.streams.open(principal.user_id, principal.session_id, KINDS)?;
    let last = seen.as_ref().and_then(|seen| seen.first().copied());
    let mut conn = app.db.primary().await?;
    let known = queries::told_at(&mut conn, principal.user_id, last).await?;
    drop(conn);
    let left = end.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()).max(0);
    let end = Instant::now() + Duration::from_secs(left.unsigned_abs());
    let catch_up = catch_up(app, principal.user_id);
    let reader = match (seen, known.last) {
        (None, _) => Reader::new(stream, catch_up, end, Checkpoint::default(), None),
        (Some(seen), since) => {
            let since = since.unwrap_or(known.now);
            Reader::new(stream, catch_up, end, Checkpoint::of(&seen, since), Some(since))
        }
    };
    Ok(reader.into_response(last.is_none().then_some(known.start)))
}

fn catch_up(app: AppState, customer_id: Uuid) -> CatchUp {
    Box::new(move |from| {
        let app = app.clone();
        async move {
            // The primary has what was committed a moment ago.
            let mut conn = app.db.primary().await?;
            Ok(queries::told_since(&mut conn, customer_id, from).await?)
        }
        .boxed()
    })
}
