//! What reports are asked for and made of.

use serde::{Deserialize, Deserializer, Serialize};
use time::{Date, Duration, OffsetDateTime};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::platform::http::error::ApiError;

/// More days would be more rows than one statement should add up.
const MAX_DAYS: i64 = 366;

/// Without dates: these many days up to today.
const DEFAULT_DAYS: i64 = 30;

time::serde::format_description!(iso_day, Date, "[year]-[month]-[day]");

/// Both days are part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) from: Date,
    pub(super) to: Date,
}

impl Range {
    /// # Errors
    /// 422 for one that ends before it begins, or is too long.
    pub(super) fn new(from: Option<Date>, to: Option<Date>) -> Result<Self, ApiError> {
        let to = to.unwrap_or_else(|| OffsetDateTime::now_utc().date());
        let default = to.saturating_sub(Duration::days(DEFAULT_DAYS - 1));
        let from = from.unwrap_or(default);
        let days = (to - from).whole_days() + 1;
        if (1..=MAX_DAYS).contains(&days) {
            return Ok(Self { from, to });
        }
        let detail = format!("must be at most `to`, and less than {MAX_DAYS} days before it");
        Err(ApiError::invalid("?from", "invalid_range", detail))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum GroupBy {
    Day,
    Product,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SalesFilter {
    /// The first day (UTC); 29 days before the last if it is left out.
    #[serde(default, with = "iso_day::option")]
    pub from: Option<Date>,
    /// The last day; today if it is left out. At most 366 days in all.
    #[serde(default, with = "iso_day::option")]
    pub to: Option<Date>,
    #[param(inline, default = "day")]
    #[serde(default = "by_day")]
    pub group_by: GroupBy,
}

fn by_day() -> GroupBy {
    GroupBy::Day
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TopFilter {
    /// The first day (UTC); 29 days before the last if it is left out.
    #[serde(default, with = "iso_day::option")]
    pub from: Option<Date>,
    /// The last day; today if it is left out. At most 366 days in all.
    #[serde(default, with = "iso_day::option")]
    pub to: Option<Date>,
    /// Products per currency, 1 to 100.
    #[param(default = 10, minimum = 1, maximum = 100)]
    #[serde(default = "ten", deserialize_with = "up_to_a_hundred")]
    pub limit: i64,
}

fn ten() -> i64 {
    10
}

fn up_to_a_hundred<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let limit = i64::deserialize(deserializer)?;
    if (1..=100).contains(&limit) {
        return Ok(limit);
    }
    Err(serde::de::Error::custom("`limit` must be a number from 1 to 100"))
}

/// What was sold on a day in one currency.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DailySales {
    #[serde(with = "iso_day")]
    pub day: Date,
    #[schema(example = "EUR")]
    pub currency: String,
    pub orders: i64,
    pub units: i64,
    /// In the currency's minor unit.
    pub total_amount: i64,
}

/// What was sold of a product in one currency.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProductSales {
    pub product_id: Uuid,
    pub sku: Option<String>,
    pub name: Option<String>,
    #[schema(example = "EUR")]
    pub currency: String,
    pub orders: i64,
    pub units: i64,
    /// In the currency's minor unit.
    pub total_amount: i64,
}

/// A row of sales: per day, or per product.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum SalesRow {
    Day(DailySales),
    Product(ProductSales),
}

/// What a page of sales starts behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Position {
    Day(#[serde(with = "iso_day")] Date, String),
    Product(Uuid, String),
}

impl Position {
    /// Before the first row.
    pub(super) fn start(group_by: GroupBy, range: Range) -> Self {
        match group_by {
            GroupBy::Day => Self::Day(range.from, String::new()),
            GroupBy::Product => Self::Product(Uuid::nil(), String::new()),
        }
    }

    pub(super) fn of(row: &SalesRow) -> Self {
        match row {
            SalesRow::Day(row) => Self::Day(row.day, row.currency.clone()),
            SalesRow::Product(row) => Self::Product(row.product_id, row.currency.clone()),
        }
    }

    pub(super) fn is_of(&self, group_by: GroupBy) -> bool {
        matches!(
            (self, group_by),
            (Self::Day(..), GroupBy::Day) | (Self::Product(..), GroupBy::Product)
        )
    }
}

/// The products that brought in most.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopProducts {
    /// Grouped by currency, the first of each first.
    pub data: Vec<ProductSales>,
}
