//! Products and their stock. The template for a resource: copy this folder to begin another.
//!
//! The catalogue (`products`) and the stock (`inventory`) are two tables, since the one is read
//! all the time and the other changes with every order. What the catalogue shows of the stock is
//! the coarse `availability`, so a sale touches a product's row, ETag and cache entry only when
//! it crosses a threshold.

mod cached;
mod handlers;
pub mod import;
mod model;
mod queries;
mod service;
mod stock;

use utoipa_axum::{router::OpenApiRouter, routes};

// What other resources may use.
pub(super) use self::model::ProductResponse;
pub(super) use self::service::set_image;
pub use self::{
    queries::{SoldLine, return_stock, take_stock},
    stock::{StockChange, update_availability},
};
use crate::state::AppState;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(handlers::list_products, handlers::create_product))
        .routes(routes!(handlers::get_product, handlers::update_product, handlers::delete_product))
        .routes(routes!(handlers::get_stock, handlers::adjust_stock))
}
