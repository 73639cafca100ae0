//! What a product is made of.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::stock::Availability;
use crate::platform::text::Text;

pub(super) type ProductName = Text<200>;
pub(super) type Description = Text<4_000>;

/// A stock keeping unit: 1 to 64 letters, digits, `.`, `_`, `-` and spaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 64)]
pub(super) struct Sku(String);

impl Sku {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sku {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        let sku = value.trim();
        let is_sku = (1..=64).contains(&sku.len())
            && sku.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._- ".contains(&byte));
        is_sku
            .then(|| Self(sku.to_owned()))
            .ok_or("must have 1 to 64 letters, digits, `.`, `_`, `-` or spaces")
    }
}

/// The price of one unit in the currency's minor unit. The bound keeps the total of the largest
/// order within 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "i64")]
#[schema(value_type = i64, minimum = 0, maximum = 10_000_000_000_i64)]
pub(super) struct UnitAmount(i64);

impl UnitAmount {
    pub(super) fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for UnitAmount {
    type Error = &'static str;

    fn try_from(value: i64) -> Result<Self, Self::Error> {
        (0..=10_000_000_000)
            .contains(&value)
            .then_some(Self(value))
            .ok_or("must be an amount in minor units from 0 to 10000000000")
    }
}

/// An ISO 4217 code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "EUR")]
pub(super) struct Currency(String);

impl Currency {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Currency {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        (value.len() == 3 && value.bytes().all(|byte| byte.is_ascii_uppercase()))
            .then_some(Self(value))
            .ok_or("must be an ISO 4217 code such as EUR")
    }
}

/// Units on hand, or a change of them. The bound keeps sums within 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "i64")]
#[schema(value_type = i64, minimum = -1_000_000_000, maximum = 1_000_000_000)]
pub(super) struct Units(i64);

impl Units {
    pub(super) fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Units {
    type Error = &'static str;

    fn try_from(value: i64) -> Result<Self, Self::Error> {
        (-1_000_000_000..=1_000_000_000)
            .contains(&value)
            .then_some(Self(value))
            .ok_or("must be at most 1000000000 units")
    }
}

/// A product as stored, archived ones left out.
#[derive(Debug, Clone)]
pub(super) struct Product {
    pub id: Uuid,
    pub sku: String,
    pub name: String,
    pub description: String,
    pub unit_amount: i64,
    pub currency: String,
    pub availability: Availability,
    pub image_url: Option<String>,
    pub version: i32,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// A product as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::domain) struct ProductResponse {
    pub id: Uuid,
    pub sku: String,
    pub name: String,
    pub description: String,
    /// In the currency's minor unit.
    pub unit_amount: i64,
    pub currency: String,
    pub availability: Availability,
    pub image_url: Option<String>,
    pub version: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl From<Product> for ProductResponse {
    fn from(product: Product) -> Self {
        Self {
            id: product.id,
            sku: product.sku,
            name: product.name,
            description: product.description,
            unit_amount: product.unit_amount,
            currency: product.currency,
            availability: product.availability,
            image_url: product.image_url,
            version: product.version,
            created_at: product.created_at,
            updated_at: product.updated_at,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateProduct {
    pub sku: Sku,
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    pub name: ProductName,
    #[schema(value_type = String, min_length = 1, max_length = 4000)]
    pub description: Description,
    pub unit_amount: UnitAmount,
    pub currency: Currency,
    /// Units on hand to begin with.
    #[serde(default = "no_units")]
    pub stock: Units,
}

fn no_units() -> Units {
    Units(0)
}

/// What is absent stays. The currency cannot change: orders would mix it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateProduct {
    pub sku: Option<Sku>,
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    pub name: Option<ProductName>,
    #[schema(value_type = Option<String>, min_length = 1, max_length = 4000)]
    pub description: Option<Description>,
    pub unit_amount: Option<UnitAmount>,
}

/// In which order the catalogue is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, ToSchema)]
pub(super) enum Sort {
    #[serde(rename = "created_at")]
    Oldest,
    #[default]
    #[serde(rename = "-created_at")]
    Newest,
    #[serde(rename = "unit_amount")]
    Cheapest,
    #[serde(rename = "-unit_amount")]
    Dearest,
}

impl Sort {
    /// What a cursor says of the amount: 0 in orders that do not sort by it.
    pub(super) fn amount_of(self, product: &Product) -> i64 {
        match self {
            Self::Oldest | Self::Newest => 0,
            Self::Cheapest | Self::Dearest => product.unit_amount,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CatalogueFilter {
    /// Words that SKU, name or description must contain; quotes and `-` work as in web search.
    #[param(value_type = Option<String>, max_length = 200)]
    pub q: Option<Text<200>>,
    #[serde(default)]
    #[param(inline)]
    pub sort: Sort,
}

/// The exact stock.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StockResponse {
    pub product_id: Uuid,
    pub stock: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdjustStock {
    /// Units that came in; negative for units that went out otherwise than by an order.
    pub delta: Units,
}
