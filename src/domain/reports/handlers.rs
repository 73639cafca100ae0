//! Routes of reports.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Uri, header};

use super::{
    csv,
    model::{GroupBy, Position, Range, SalesFilter, SalesRow, TopFilter, TopProducts},
    queries,
};
use crate::{
    platform::{
        context::Budget,
        db::{self, Consistency},
        http::{
            accept::{self, CSV, JSON},
            error::{ApiError, Problem},
            pagination::{Page, PageParams, foreign_cursor},
            params::Query,
            visitor::Admin,
        },
    },
    state::AppState,
};

/// Rows that are read at once for CSV, which has all of them.
const CSV_PAGE: i64 = 1_000;

/// What was sold, per day or per product
#[utoipa::path(get, path = "/v1/reports/sales", tag = "reports", security(("token" = [])),
    params(SalesFilter, PageParams),
    responses((status = 200, body = Page<SalesRow>), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn get_sales(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    headers: http::HeaderMap,
    Query(filter): Query<SalesFilter>,
    Query(page): Query<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let format = accept::choose(&headers, &[JSON, CSV])?;
    let group_by = filter.group_by;
    let range = Range::new(filter.from, filter.to)?;
    let question = Question { range, consistency };
    if format == CSV {
        return whole(app, group_by, question).await;
    }
    let position = page.position()?.unwrap_or_else(|| Position::start(group_by, range));
    if !position.is_of(group_by) {
        return Err(foreign_cursor());
    }
    let rows = sales(&app, &question, &position, page.fetch_limit()).await?;
    let mut response = Page::<SalesRow>::new(rows, page.limit, Position::of).into_response(&uri)?;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The products that brought in most, per currency
#[utoipa::path(get, path = "/v1/reports/top-products", tag = "reports", security(("token" = [])),
    params(TopFilter),
    responses((status = 200, body = TopProducts), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn get_top_products(
    State(app): State<AppState>,
    _: Admin,
    consistency: Consistency,
    headers: http::HeaderMap,
    Query(filter): Query<TopFilter>,
) -> Result<Response, ApiError> {
    let format = accept::choose(&headers, &[JSON, CSV])?;
    let range = Range::new(filter.from, filter.to)?;
    let mut conn = app.db.read(&consistency).await?;
    let data = queries::top_products(&mut conn, range, filter.limit).await?;
    drop(conn);
    if format == CSV {
        let body = [csv::head(GroupBy::Product), csv::products(&data)].concat();
        return Ok(as_csv(Body::from(body)));
    }
    Ok(([(header::VARY, "accept")], Json(TopProducts { data })).into_response())
}

#[derive(Clone, Copy)]
struct Question {
    range: Range,
    consistency: Consistency,
}

async fn sales(
    app: &AppState,
    question: &Question,
    position: &Position,
    limit: i64,
) -> Result<Vec<SalesRow>, db::Error> {
    let mut conn = app.db.read(&question.consistency).await?;
    Ok(match position {
        Position::Day(day, currency) => {
            let after = (*day, currency.clone());
            let rows = queries::by_day(&mut conn, question.range, &after, limit).await?;
            rows.into_iter().map(SalesRow::Day).collect()
        }
        Position::Product(id, currency) => {
            let after = (*id, currency.clone());
            let rows = queries::by_product(&mut conn, question.range, &after, limit).await?;
            rows.into_iter().map(SalesRow::Product).collect()
        }
    })
}

/// All rows, read while they are sent: memory holds one page of them. The first is read before the
/// answer begins, which can still be a refusal then. Should the database go away later, the answer
/// ends in the middle, which its reader can tell.
///
/// Each page is read from wherever there is all that was committed when the first was asked for, and
/// has as much time as the request had then: a client may take longer to read all of them.
async fn whole(app: AppState, group_by: GroupBy, question: Question) -> Result<Response, ApiError> {
    let question =
        Question { consistency: question.consistency.from(app.db.position()), ..question };
    let budget = Budget::of_request();
    let start = Position::start(group_by, question.range);
    let first = page(&app, &question, &start).await?;
    let rest = stream::try_unfold((app, first.next), move |(app, position)| {
        let budget = budget.clone();
        async move {
            let Some(position) = position else { return Ok(None) };
            let Csv { text, next } = budget.scope(page(&app, &question, &position)).await?;
            Ok::<_, db::Error>(Some((text, (app, next))))
        }
    });
    let begin = stream::iter([csv::head(group_by), first.text].map(Ok));
    Ok(as_csv(Body::from_stream(begin.chain(rest))))
}

/// Lines, and what the next begin behind.
struct Csv {
    text: Bytes,
    next: Option<Position>,
}

async fn page(app: &AppState, question: &Question, after: &Position) -> Result<Csv, db::Error> {
    let rows = sales(app, question, after, CSV_PAGE).await?;
    let is_last = (rows.len() as i64) < CSV_PAGE;
    let next = rows.last().filter(|_| !is_last).map(Position::of);
    Ok(Csv { text: csv::sales(&rows), next })
}

fn as_csv(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, csv::CONTENT_TYPE),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"report.csv\""),
        (header::VARY, "accept"),
    ];
    (headers, body).into_response()
}
