//! The composition root: which routes exist, and how the process runs.

use std::future::Future;

use axum::Router;
use tokio::net::TcpListener;
use tower::layer::util::Identity;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    config::Http,
    domain,
    platform::http::{
        admission::Admission,
        docs,
        error::ApiError,
        gate::{Gate, Policies},
        layers::Layers,
        limits, ops, server,
    },
    state::AppState,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Shoal",
        description = "A small shop on a horizontally scalable platform. Errors are problem \
                       documents (RFC 9457), lists are paged by cursor, and every `POST` that \
                       changes the shop takes an `Idempotency-Key`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact()
    ),
    modifiers(&BearerToken)
)]
struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    }
}

fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(domain::routes())
        .routes(routes!(limits::get_rate_limit))
}

/// The OpenAPI document of everything under `/v1`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().to_openapi()
}

struct Routers {
    /// Everything for clients, with all layers.
    main: Router,
    /// Health and metrics on a listener of their own.
    ops: Option<Router>,
}

fn routers(app: &AppState, config: &Http) -> anyhow::Result<Routers> {
    let gate = Gate::new(
        app.tokens.clone(),
        app.sessions.clone(),
        app.positions.clone(),
        app.limiter.clone(),
        Policies { default: app.limits.default, write: app.limits.write },
        config.trusted_proxies.clone(),
    );
    let (api, openapi) = api().split_for_parts();
    let paths = openapi.paths.paths.keys().cloned();
    let admission = Admission::new(config.concurrency, domain::priority, paths, &app.metrics)?;
    let not_allowed = async || {
        ApiError::new(
            http::StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "This address does not know that method; `Allow` lists those it knows.",
        )
    };
    let layers = Layers::new(&config.layers, &app.metrics, &app.tasks)?;
    let api = api.with_state(app.clone()).method_not_allowed_fallback(not_allowed);
    let api = layers.around(api, (admission, gate.layer()));
    let ops = ops::router(app.health.clone(), app.metrics.clone());
    let docs = docs::router(&openapi)?;
    let (open, ops) =
        if config.ops_address.is_some() { (docs, Some(ops)) } else { (docs.merge(ops), None) };
    let open =
        open.fallback(async || ApiError::not_found()).method_not_allowed_fallback(not_allowed);
    let main = layers.around(open, Identity::new()).merge(api);
    Ok(Routers { main, ops })
}

/// Serves until `shutdown` completes, then drains and ends every background task.
///
/// `listeners.1` takes the routes for machines, if they have an address of their own.
///
/// # Errors
/// The routes cannot be built.
pub async fn run(
    listeners: (TcpListener, Option<TcpListener>),
    app: AppState,
    config: &Http,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let routers = routers(&app, config)?;
    let mut served = vec![(listeners.0, routers.main)];
    served.extend(listeners.1.zip(routers.ops));
    app.tasks.spawn(app.health.clone().start());
    server::serve(served, &config.server, &app.metrics, &app.tasks, shutdown).await?;
    app.tasks.stop().await;
    app.db.close();
    tracing::info!("stopped");
    Ok(())
}
