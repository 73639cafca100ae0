//! What endpoints and deliveries are made of.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::platform::{text::Text, webhooks::Secret};

/// Resources whose events can be asked for.
pub(super) const RESOURCES: [&str; 3] = ["order", "product", "user"];

/// Filters of one endpoint, at most.
const MAX_FILTERS: usize = 50;

/// The longest address that is taken.
const MAX_URL: usize = 2_048;

pub(super) type Description = Text<200>;

/// Where webhooks are sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct EndpointUrl(pub(super) Url);

impl TryFrom<String> for EndpointUrl {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        let url = Url::parse(value.trim()).map_err(|_| "must be an `https` address")?;
        (url.as_str().len() <= MAX_URL).then_some(Self(url)).ok_or("must have at most 2048 bytes")
    }
}

/// Which events: types such as `order.paid`, `order.*` for all of a resource, `*` for all.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub(super) struct Filters(Vec<String>);

impl Filters {
    pub(super) fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Filters {
    type Error = &'static str;

    fn try_from(mut filters: Vec<String>) -> Result<Self, Self::Error> {
        filters.sort_unstable();
        filters.dedup();
        if filters.is_empty() || filters.len() > MAX_FILTERS {
            return Err("must have 1 to 50 different types of events");
        }
        let is_known = |filter: &String| {
            let word = |text: &str| {
                !text.is_empty()
                    && text.len() <= 50
                    && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            filter == "*"
                || filter.split_once('.').is_some_and(|(resource, what)| {
                    RESOURCES.contains(&resource) && (what == "*" || word(what))
                })
        };
        filters.iter().all(is_known).then_some(Self(filters)).ok_or(
            "must be `*`, or types of events that begin with `order.`, `product.` or `user.` and \
             end with a name or `*`",
        )
    }
}

/// An endpoint as stored, without its secrets.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub id: Uuid,
    pub url: String,
    pub description: String,
    pub events: Vec<String>,
    pub previous_secret_expires_at: Option<OffsetDateTime>,
    pub failing_since: Option<OffsetDateTime>,
    pub disabled_at: Option<OffsetDateTime>,
    pub disabled_reason: Option<String>,
    pub version: i32,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// An endpoint as administrators see it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointResponse {
    pub id: Uuid,
    pub url: String,
    pub description: String,
    pub events: Vec<String>,
    pub enabled: bool,
    /// `by_hand`, `gone` (it answered 410) or `failing` (nothing has succeeded for 5 days).
    pub disabled_reason: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
    /// The first failure after which nothing has succeeded.
    #[serde(with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// Until when deliveries are signed with the secret before the last rotation as well.
    #[serde(with = "time::serde::rfc3339::option")]
    pub previous_secret_expires_at: Option<OffsetDateTime>,
    pub version: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl From<Endpoint> for EndpointResponse {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url,
            description: endpoint.description,
            events: endpoint.events,
            enabled: endpoint.disabled_at.is_none(),
            disabled_reason: endpoint.disabled_reason,
            disabled_at: endpoint.disabled_at,
            failing_since: endpoint.failing_since,
            previous_secret_expires_at: endpoint.previous_secret_expires_at,
            version: endpoint.version,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

/// An endpoint with a secret that is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct EndpointWithSecret {
    #[serde(flatten)]
    pub endpoint: EndpointResponse,
    /// `whsec_…`, to verify signatures with; it is not shown again.
    pub secret: String,
}

impl EndpointWithSecret {
    pub(super) fn new(endpoint: Endpoint, secret: &Secret) -> Self {
        Self { endpoint: endpoint.into(), secret: secret.reveal() }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateEndpoint {
    #[schema(value_type = String, max_length = 2048)]
    pub url: EndpointUrl,
    /// Types such as `order.paid`, `order.*` for all of a resource, `*` for all.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 50)]
    pub events: Filters,
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    pub description: Option<Description>,
}

/// What is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateEndpoint {
    #[schema(value_type = Option<String>, max_length = 2048)]
    pub url: Option<EndpointUrl>,
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 50)]
    pub events: Option<Filters>,
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    pub description: Option<Description>,
    /// What became due while it was disabled has failed; later attempts are made.
    pub enabled: Option<bool>,
}

/// What has become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(super) enum State {
    Pending,
    Delivered,
    Failed,
}

/// A delivery as stored, without its body.
#[derive(Debug)]
pub(super) struct Delivery {
    pub id: Uuid,
    pub event_id: Uuid,
    pub event_type: String,
    pub state: State,
    pub attempts: i16,
    pub response_status: Option<i16>,
    pub error: Option<String>,
    pub last_attempt_at: Option<OffsetDateTime>,
    pub next_attempt_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
}

/// One event on its way to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryResponse {
    /// The `webhook-id`, the same in every attempt.
    pub id: Uuid,
    pub event_id: Uuid,
    pub event_type: String,
    pub state: State,
    /// Since it was delivered for the first time, or again by hand.
    pub attempts: i16,
    /// What the receiver answered last.
    pub response_status: Option<i16>,
    pub error: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_attempt_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl From<Delivery> for DeliveryResponse {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            state: delivery.state,
            attempts: delivery.attempts,
            response_status: delivery.response_status,
            error: delivery.error,
            last_attempt_at: delivery.last_attempt_at,
            next_attempt_at: delivery.next_attempt_at,
            created_at: delivery.created_at,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryFilter {
    #[param(inline)]
    pub state: Option<State>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_types_or_all_of_a_resource() {
        let parse = |filters: &[&str]| {
            Filters::try_from(filters.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
        };
        for good in ["*", "order.*", "order.payment_failed", "user.registered"] {
            assert!(parse(&[good]).is_ok(), "{good}");
        }
        for bad in ["", "order", "order.", "orders.paid", "order.Paid", "order.*.*", "*.paid"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
        assert_eq!(parse(&["user.*", "*", "*"]).unwrap().as_slice(), ["*", "user.*"]);
        assert!(parse(&[]).is_err());
    }
}
