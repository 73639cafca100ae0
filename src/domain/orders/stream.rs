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
        db::Consistency,
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

/// The primary has what was committed a moment ago. As a read, so that all who come back at once
/// leave connections to those who write.
const NEWEST: Consistency = Consistency::Latest;

/// What happened before is not looked for: there may be a great deal of it.
const LONGEST_BREAK: Duration = Duration::from_secs(24 * 60 * 60);

/// What happens to one's orders, as it happens (server-sent events)
///
/// Comes back after a break with `Last-Event-ID` to get what happened meanwhile, if that is no longer
/// ago than a day; an event that comes twice has the same `id` in its data.
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
    let mut conn = app.db.read(&NEWEST).await?;
    let known = queries::told_at(&mut conn, principal.user_id, last).await?;
    drop(conn);
    if known.last.is_some_and(|last| known.now - last > LONGEST_BREAK) {
        // To begin later would be to leave out what the client believes to get.
        return Err(ApiError::bad_request(
            "last_event_id_too_old",
            "`Last-Event-ID` is of more than 24 hours ago; read `/v1/orders`, and leave it out to \
             begin now.",
        ));
    }
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
            let mut conn = app.db.read(&NEWEST).await?;
            Ok(queries::told_since(&mut conn, customer_id, from).await?)
        }
        .boxed()
    })
}
