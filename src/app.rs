//! The composition root: which routes exist, and how the process runs.

use std::future::Future;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::layer::util::Identity;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    config::{Config, Http},
    domain,
    platform::{
        fleet::{self, Listening},
        http::{
            admission::Admission,
            docs,
            error::ApiError,
            gate::{Gate, Policies},
            layers::Layers,
            limits, ops, server,
        },
        jobs::{Pulse, Worker},
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

/// What a process that serves the API does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Api,
    /// Jobs as well, for the smallest deployment.
    ApiAndWorker,
}

struct Routers {
    /// Everything for clients, with all layers.
    main: Router,
    /// Health and metrics on a listener of their own.
    ops: Option<Router>,
}

fn routers(app: &AppState, config: &Http, pulse: Option<Pulse>) -> anyhow::Result<Routers> {
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
    let layers = Layers::new(&config.layers, domain::takes_file, &app.metrics, &app.tasks)?;
    let api = api.with_state(app.clone()).method_not_allowed_fallback(not_allowed);
    let api = layers.around(api, (admission, gate.layer()));
    let ops = ops::router(app.health.clone(), app.metrics.clone(), pulse);
    let docs = docs::router(&openapi)?;
    let (open, ops) =
        if config.ops_address.is_some() { (docs, Some(ops)) } else { (docs.merge(ops), None) };
    let open =
        open.fallback(async || ApiError::not_found()).method_not_allowed_fallback(not_allowed);
    let main = layers.around(open, Identity::new()).merge(api);
    Ok(Routers { main, ops })
}

/// Works until `shutdown` completes, then finishes or gives back what is under way. `listener`
/// takes the routes for machines; a worker has no others.
///
/// # Errors
/// A metric is registered twice.
pub async fn work(
    listener: TcpListener,
    app: AppState,
    config: &Config,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let worker = worker(&app, config)?;
    let listening = Listening { main: listener.local_addr()?, ops: None };
    let ops = ops::router(app.health.clone(), app.metrics.clone(), Some(worker.pulse()));
    app.tasks.spawn(app.health.clone().start());
    let presence = app.fleet.join(fleet::Role::Worker, listening, &app.tasks);
    let server = &config.http.server;
    let worked = CancellationToken::new();
    let shutdown = async {
        shutdown.await;
        app.tasks.drain();
    };
    let work = async {
        worker.run(&app.tasks, shutdown, server.drain_cap).await;
        worked.cancel();
    };
    // Health and metrics are served until the last job has ended.
    let serve =
        server::serve(vec![(listener, ops)], server, &app.metrics, &app.tasks, worked.cancelled());
    let ((), served) = tokio::join!(work, serve);
    // Whatever has become of serving.
    presence.leave().await;
    app.tasks.stop().await;
    app.db.close();
    served?;
    tracing::info!("stopped");
    Ok(())
}

fn worker(app: &AppState, config: &Config) -> anyhow::Result<Worker<AppState>> {
    if app.payments.is_none() {
        tracing::info!("SHOAL_PAYMENTS_URL is not set: orders stay pending");
    }
    if app.mail.is_none() {
        tracing::info!("SHOAL_SMTP_URL is not set: no mail is sent");
    }
    let stores = (app.db.clone(), app.redis.clone());
    Ok(Worker::new(app.clone(), stores, domain::work(), config.jobs.clone(), &app.metrics)?)
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
    config: &Config,
    role: Role,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let Config { http, .. } = config;
    let draining = CancellationToken::new();
    let shutdown = async {
        shutdown.await;
        draining.cancel();
    };
    let (worker, role) = match role {
        Role::Api => (None, fleet::Role::Api),
        Role::ApiAndWorker => (Some(worker(&app, config)?), fleet::Role::ApiAndWorker),
    };
    let address = |listener: &TcpListener| listener.local_addr();
    let ops = listeners.1.as_ref().map(address).transpose()?;
    let listening = Listening { main: address(&listeners.0)?, ops };
    let routers = routers(&app, http, worker.as_ref().map(Worker::pulse))?;
    let work = async {
        if let Some(worker) = worker {
            worker.run(&app.tasks, draining.cancelled(), http.server.drain_cap).await;
        }
    };
    let mut served = vec![(listeners.0, routers.main)];
    served.extend(listeners.1.zip(routers.ops));
    app.tasks.spawn(app.health.clone().start());
    let presence = app.fleet.join(role, listening, &app.tasks);
    app.streams.start(app.db.local_events(), &app.redis, &app.sessions, &app.tasks);
    let serve = server::serve(served, &http.server, &app.metrics, &app.tasks, shutdown);
    let (served, ()) = tokio::join!(serve, work);
    // Whatever has become of serving.
    presence.leave().await;
    app.tasks.stop().await;
    app.db.close();
    served?;
    tracing::info!("stopped");
    Ok(())
}
