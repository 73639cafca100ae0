//! The bare handlers that the service is measured against: axum with nothing around it, on the same allocator
//! and the same kind of runtime. `lab bench-server` runs them.
//!
//! - `/bare/NAME` answers bytes that it holds,
//! - `/redis/NAME` fetches them from Redis over one connection that all requests share,
//! - `/orders/CUSTOMER/ID` asks Postgres for an order, through sqlx's own pool.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::sql;
use crate::error::{Context, Result};

/// Stands before the keys of the bench in Redis.
pub(super) const PREFIX: &str = "bench:";
/// Bodies that are held in memory as well.
pub(super) const HELD: [&str; 3] = ["product", "list", "order"];
/// As many as the service opens by default.
const CONNECTIONS: u32 = 10;

/// What the command line said.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The port on loopback.
    pub port: u16,
    /// Redis, in which the bodies are.
    pub redis_url: String,
    /// The database, through its PgBouncer.
    pub database_url: String,
}

#[derive(Clone)]
struct Backends {
    redis: MultiplexedConnection,
    database: PgPool,
}

/// Serves until the process is ended.
pub fn run(settings: &Settings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.cannot(|| "start the runtime".to_owned())?.block_on(serve(settings))
}

async fn serve(settings: &Settings) -> Result<()> {
    let client = redis::Client::open(&*settings.redis_url).cannot(|| "read the URL".to_owned())?;
    let connection = client.get_multiplexed_async_connection().await;
    let mut redis = connection.cannot(|| "connect to Redis".to_owned())?;
    let database =
        PgPoolOptions::new().max_connections(CONNECTIONS).connect(&settings.database_url);
    let database = database.await.cannot(|| "connect to the database".to_owned())?;

    let mut router = Router::new();
    for name in HELD {
        let body: Bytes =
            redis.get(format!("{PREFIX}{name}")).await.cannot(|| format!("fetch {name}"))?;
        let answer = move || std::future::ready(respond(body.clone()));
        router = router.route(&format!("/bare/{name}"), get(answer));
    }
    let router = router
        .route("/redis/{name}", get(from_redis))
        .route("/orders/{customer}/{id}", get(order))
        .with_state(Arc::new(Backends { redis, database }));
    let address = (Ipv4Addr::LOCALHOST, settings.port);
    let listener = TcpListener::bind(address).await.cannot(|| "listen".to_owned())?;
    axum::serve(listener, router).await.cannot(|| "serve".to_owned())
}

async fn from_redis(State(backends): State<Arc<Backends>>, Path(name): Path<String>) -> Response {
    let mut redis = backends.redis.clone();
    match redis.get::<_, Option<Bytes>>(format!("{PREFIX}{name}")).await {
        Ok(Some(body)) => respond(body),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn order(
    State(backends): State<Arc<Backends>>,
    Path((customer, id)): Path<(Uuid, Uuid)>,
) -> Response {
    let rows = sqlx::query(sql::FIND_ORDER).bind(id).bind(customer).fetch_all(&backends.database);
    let order = rows.await.and_then(|rows| Order::read(id, &rows));
    match order {
        Ok(Some(order)) => Json(order).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

fn respond(body: Bytes) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

fn failed(error: &dyn std::error::Error) -> Response {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// An order as the service shows it.
#[derive(Serialize)]
struct Order {
    id: Uuid,
    status: String,
    items: Vec<Item>,
    total_amount: i64,
    currency: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Serialize, FromRow)]
struct Item {
    product_id: Uuid,
    name: String,
    quantity: i32,
    unit_amount: i64,
}

impl Order {
    fn read(id: Uuid, rows: &[sqlx::postgres::PgRow]) -> Result<Option<Self>, sqlx::Error> {
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(Self {
            id,
            status: first.try_get("status")?,
            items: rows.iter().map(Item::from_row).collect::<Result<_, _>>()?,
            total_amount: first.try_get("total_amount")?,
            currency: first.try_get("currency")?,
            created_at: first.try_get("created_at")?,
            updated_at: first.try_get("updated_at")?,
        }))
    }
}
