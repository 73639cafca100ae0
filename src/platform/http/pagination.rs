//! Keyset pagination: a page starts behind the last row of the one before it, so that it costs
//! the same however far one reads, and nothing is skipped or doubled while rows come and go.

use axum::response::Response;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Uri, header};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use super::{error::ApiError, json::serialised};

const DEFAULT_LIMIT: i64 = 20;
const MAX_LIMIT: i64 = 100;

/// `?limit=` and `?cursor=`, to be flattened into nothing else: the query parser keeps numbers
/// as texts behind `serde(flatten)`, hence the lenient `limit`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Items per page, 1 to 100.
    #[param(default = 20, minimum = 1, maximum = 100)]
    #[serde(default = "default_limit", deserialize_with = "limit")]
    pub limit: i64,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

fn default_limit() -> i64 {
    DEFAULT_LIMIT
}

fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        serde::de::Error::custom(format!("`limit` must be a number from 1 to {MAX_LIMIT}"))
    })
}

impl PageParams {
    /// One row more than the page holds, to know whether there is another page.
    pub fn fetch_limit(&self) -> i64 {
        self.limit + 1
    }

    /// The position that the cursor stands for. `T` says of what order, so that a cursor of one
    /// list is refused by another.
    ///
    /// # Errors
    /// 422 for a cursor that this list did not give out.
    pub fn position<T: DeserializeOwned>(&self) -> Result<Option<T>, ApiError> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
        serde_json::from_slice(&bytes).map(Some).map_err(|_| foreign_cursor())
    }
}

/// 422 for a cursor that this list did not give out.
pub fn foreign_cursor() -> ApiError {
    ApiError::invalid(
        "?cursor",
        "invalid_cursor",
        "is not a `next_cursor` of this list; start again without it",
    )
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// `rows` are as many as the page holds, and one more if there are; `position` is what the
    /// cursor of the next page says about the last row of this one.
    pub fn new<R: Into<T>, P: Serialize>(
        mut rows: Vec<R>,
        limit: i64,
        position: impl Fn(&R) -> P,
    ) -> Self {
        let has_more = rows.len() as i64 > limit;
        rows.truncate(limit as usize);
        // Positions are numbers and texts: this cannot fail.
        let cursor = |last| serde_json::to_vec(&position(last)).unwrap_or_default();
        let next_cursor =
            rows.last().filter(|_| has_more).map(|last| URL_SAFE_NO_PAD.encode(cursor(last)));
        Self { data: rows.into_iter().map(Into::into).collect(), has_more, next_cursor }
    }

    /// The page as a response, with the `Link` to the next one.
    ///
    /// # Errors
    /// The page cannot be serialised: a bug.
    pub fn into_response(self, uri: &Uri) -> Result<Response, ApiError>
    where
        T: Serialize,
    {
        let link = self.next_cursor.as_deref().map(|cursor| next_link(uri, cursor));
        let body = Bytes::from(serde_json::to_vec(&self)?);
        Ok(respond(body, link))
    }
}

/// A serialised page with its `Link`.
pub fn respond(body: Bytes, link: Option<String>) -> Response {
    let mut response = serialised(body);
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// `<uri with the cursor replaced>; rel="next"`
pub fn next_link(uri: &Uri, cursor: &str) -> String {
    let kept = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="))
        .fold(String::new(), |kept, pair| kept + pair + "&");
    format!("<{}?{kept}cursor={cursor}>; rel=\"next\"", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_next_page_with_the_other_parameters_kept() {
        let uri: Uri = "/v1/products?q=hook&cursor=abc&limit=5".parse().unwrap();
        assert_eq!(
            next_link(&uri, "xyz"),
            "</v1/products?q=hook&limit=5&cursor=xyz>; rel=\"next\""
        );
    }

    #[test]
    fn a_cursor_of_another_order_is_refused() {
        let page = Page::<i32>::new(vec![1, 2], 1, |row| ("a", *row));
        assert!(page.has_more);
        let params = params(1, page.next_cursor);
        assert_eq!(params.position::<(String, i32)>().unwrap(), Some(("a".to_owned(), 1)));
        assert!(params.position::<(i32, i32)>().is_err());
        assert!(self::params(1, Some("%%%".to_owned())).position::<i32>().is_err());
    }

    fn params(limit: i64, cursor: Option<String>) -> PageParams {
        PageParams { limit, cursor }
    }
}
