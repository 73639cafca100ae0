//! Path and query parameters, refused as problems.

use axum::extract::{FromRequestParts, Path as AxumPath, Query as AxumQuery};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Parameters of the path. One that cannot be parsed names nothing that exists: 404.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        AxumPath::from_request_parts(parts, state)
            .await
            .map(|AxumPath(value)| Self(value))
            .map_err(|_| ApiError::not_found())
    }
}

/// Parameters of the query. Unknown ones are ignored, as caches and trackers add their own.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match AxumQuery::try_from_uri(&parts.uri) {
            Ok(AxumQuery(value)) => Ok(Self(value)),
            Err(rejection) => {
                let (name, why) = split_rejection(&rejection.body_text());
                Err(ApiError::invalid(format!("?{name}"), "invalid", why))
            }
        }
    }
}

/// The parameter and what is wrong with it, of `Failed to ...: parameter: what is wrong`. The
/// parameter is not always there.
fn split_rejection(text: &str) -> (String, String) {
    let text = text.split_once(": ").map_or(text, |(_, rest)| rest);
    let (name, why) = text
        .split_once(": ")
        .filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        .unwrap_or(("", text));
    (name.to_owned(), why.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Params {
        #[expect(dead_code, reason = "only its parsing is of interest")]
        number: u8,
    }

    #[test]
    fn names_the_parameter_that_is_wrong() {
        let split = |query: &str| {
            let request = Request::builder().uri(format!("/?{query}")).body(Body::empty()).unwrap();
            let rejection = AxumQuery::<Params>::try_from_uri(request.uri()).unwrap_err();
            split_rejection(&rejection.body_text())
        };
        assert_eq!(split("number=x").0, "number");
        assert!(split("number=x").1.starts_with("invalid digit"), "{:?}", split("number=x"));
        assert_eq!(split("other=1"), (String::new(), "missing field `number`".to_owned()));
    }
}
