//! The shop: everything a fork replaces.
//!
//! A resource is a folder: `mod.rs` (documentation, routes, what other resources may use),
//! `model.rs` (parsed input, rows, answers), `handlers.rs`, `queries.rs`, and `service.rs` where
//! a use case takes more than one statement. `products` is the one to copy.
//!
//! A resource uses another only through its `mod.rs`, and only one that stands above it in
//! [`routes`]; the other direction goes by event.

pub mod admin;
pub mod auth;
pub mod orders;
pub mod payments;
pub mod products;
pub mod reports;
pub mod uploads;
pub mod users;
pub mod webhooks;

use http::Method;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    platform::{concurrency::Priority, jobs::Registry},
    state::AppState,
};

/// What can be asked for again later, while customers cannot wait.
const REPORTS: [&str; 5] = [
    "/v1/users",
    "/v1/orders/{id}/events",
    "/v1/auth/sessions",
    "/v1/reports/sales",
    "/v1/reports/top-products",
];

/// Whose bodies may be files.
const FILES: [&str; 2] = ["/v1/users/me/avatar", "/v1/products/{id}/image"];

/// Which looks at a file, however large.
const COMPLETE_UPLOAD: &str = "/v1/uploads/{id}/complete";

/// The routes of every resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(users::routes())
        .merge(auth::routes())
        .merge(products::routes())
        .merge(uploads::routes())
        .merge(orders::routes())
        .merge(payments::routes())
        .merge(webhooks::routes())
        .merge(reports::routes())
        .merge(admin::routes())
}

/// The jobs of every resource, the events that cause them, and the schedules.
pub fn work() -> Registry<AppState> {
    Registry::new()
        .merge(users::work())
        .merge(uploads::work())
        .merge(orders::work())
        .merge(payments::work())
        .merge(webhooks::work())
        .merge(reports::work())
        .merge(admin::work())
}

/// Who goes first while there is more to do than can be done in time.
pub fn priority(method: &Method, route: &str) -> Priority {
    if takes_file(method, route) || route == COMPLETE_UPLOAD {
        // As long as the file is large, which says nothing about the others; and what was sent is
        // there, or with the client, when it comes back.
        Priority::Report
    } else if !method.is_safe() {
        Priority::Write
    } else if REPORTS.contains(&route) {
        Priority::Report
    } else {
        Priority::Read
    }
}

/// Whether the body may be a file, which takes longer to come than a few words.
pub fn takes_file(method: &Method, route: &str) -> bool {
    method == Method::PUT && FILES.contains(&route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_report_and_every_file_is_a_route() {
        let paths = routes().to_openapi().paths.paths;
        for report in REPORTS {
            assert!(paths.contains_key(report), "{report}");
            assert_eq!(priority(&Method::GET, report), Priority::Report);
        }
        for file in FILES {
            assert!(paths.contains_key(file), "{file}");
            assert_eq!(priority(&Method::PUT, file), Priority::Report);
        }
        assert!(paths.contains_key(COMPLETE_UPLOAD));
        assert_eq!(priority(&Method::POST, COMPLETE_UPLOAD), Priority::Report);
        assert_eq!(priority(&Method::DELETE, "/v1/auth/sessions"), Priority::Write);
        assert_eq!(priority(&Method::GET, "/v1/orders/{id}"), Priority::Read);
    }
}
