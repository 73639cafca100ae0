//! A Consul agent, as far as a service talks to one: it registers, forgets, and asks for readiness
//! itself.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// What it does with whatever it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    Fails,
    /// No answer, until the other side hangs up.
    Silent,
}

type Look = Box<dyn Fn(String) -> BoxFuture<'static, Value> + Send + Sync>;

/// Dropping it closes its port.
pub struct Agent {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    token: &'static str,
    mood: Mutex<Mood>,
    services: Mutex<HashMap<String, Value>>,
    asked: AtomicUsize,
    registered: AtomicUsize,
    look: Look,
    seen: Mutex<Vec<(String, Value)>>,
}

impl Agent {
    /// One that does what comes with this token.
    pub async fn start(token: &'static str) -> Self {
        Self::looking(token, |_| Box::pin(async { Value::Null })).await
    }

    /// One that looks at something, before it does so, whenever a service is to be deregistered.
    pub async fn looking(
        token: &'static str,
        look: impl Fn(String) -> BoxFuture<'static, Value> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            token,
            mood: Mutex::new(Mood::Well),
            services: Mutex::default(),
            asked: AtomicUsize::new(0),
            registered: AtomicUsize::new(0),
            look: Box::new(look),
            seen: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/agent/service/{id}", get(service))
            .route("/v1/agent/service/register", put(register))
            .route("/v1/agent/service/deregister/{id}", put(deregister))
            .route("/v1/health/service/{name}", get(health))
            .layer(middleware::from_fn_with_state(shared.clone(), behave))
            .with_state(shared.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, serving }
    }

    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// As after it was started anew.
    pub fn forget(&self) {
        self.shared.services.lock().unwrap().clear();
    }

    /// What was registered and not deregistered.
    pub fn services(&self) -> Vec<Value> {
        self.shared.services.lock().unwrap().values().cloned().collect()
    }

    /// How often it was asked for anything.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// How often something was registered.
    pub fn registered(&self) -> usize {
        self.shared.registered.load(Ordering::SeqCst)
    }

    /// What was to be deregistered, and what there was to see when it was.
    pub fn deregistered(&self) -> Vec<(String, Value)> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn behave(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let mood = *shared.mood.lock().unwrap();
    match mood {
        Mood::Well if !may(request.headers(), shared.token) => {
            (StatusCode::FORBIDDEN, "Permission denied").into_response()
        }
        Mood::Well => next.run(request).await,
        Mood::Fails => (StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader").into_response(),
        Mood::Silent => std::future::pending().await,
    }
}

fn may(headers: &HeaderMap, token: &str) -> bool {
    headers.get(AUTHORIZATION).is_some_and(|given| *given == format!("Bearer {token}"))
}

async fn service(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    match shared.services.lock().unwrap().get(&id) {
        Some(service) => Json(service.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, format!("unknown service ID: {id}")).into_response(),
    }
}

async fn register(State(shared): State<Arc<Shared>>, body: Bytes) -> StatusCode {
    let service: Value = serde_json::from_slice(&body).unwrap();
    let id = service["ID"].as_str().unwrap().to_owned();
    shared.services.lock().unwrap().insert(id, service);
    shared.registered.fetch_add(1, Ordering::SeqCst);
    StatusCode::OK
}

async fn deregister(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> StatusCode {
    let seen = (shared.look)(id.clone()).await;
    shared.services.lock().unwrap().remove(&id);
    shared.seen.lock().unwrap().push((id, seen));
    StatusCode::OK
}

/// Those of a name that are ready, asked as they have registered it.
async fn health(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Json<Vec<Value>> {
    let services: Vec<Value> = shared.services.lock().unwrap().values().cloned().collect();
    let mut passing = Vec::new();
    for service in services.into_iter().filter(|service| service["Name"] == name) {
        let answer = reqwest::get(service["Check"]["HTTP"].as_str().unwrap()).await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            passing.push(json!({ "Node": {}, "Service": service, "Checks": [] }));
        }
    }
    Json(passing)
}
