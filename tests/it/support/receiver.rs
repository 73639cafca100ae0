//! Somebody else's server, to which webhooks are sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use uuid::Uuid;

/// A request, as it came in.
#[derive(Clone)]
pub struct Received {
    pub path: String,
    /// The `webhook-id`.
    pub id: Uuid,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// By the clock that Postgres has as well.
    pub at: OffsetDateTime,
    /// How many requests of this path and id there were before.
    pub before: usize,
}

impl Received {
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let reference = standardwebhooks::Webhook::new(secret).unwrap();
        reference.verify(&self.body, &self.headers).is_ok()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What it does with a request.
pub enum Answer {
    Status(u16),
    With(u16, &'static str, String),
    /// None, until the other side hangs up.
    Hang,
    /// A status, once this was notified.
    After(Arc<Notify>, u16),
}

/// Dropping it closes its port.
pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

type Answers = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

struct Shared {
    answer: Answers,
    received: Mutex<Vec<Received>>,
    hanging: AtomicUsize,
}

impl Receiver {
    pub async fn start(answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            received: Mutex::default(),
            hanging: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(take).with_state(shared.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, serving }
    }

    /// One that takes everything.
    pub async fn content() -> Self {
        Self::start(|_| Answer::Status(204)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything that came to `path` so far.
    pub fn received(&self, path: &str) -> Vec<Received> {
        let received = self.shared.received.lock().unwrap();
        received.iter().filter(|received| received.path == path).cloned().collect()
    }

    /// Requests without an answer.
    pub fn hanging(&self) -> usize {
        self.shared.hanging.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let (path, id) = (uri.path().to_owned(), id.unwrap_or_default());
    let received = {
        let mut all = shared.received.lock().unwrap();
        let before = all.iter().filter(|other| other.id == id && other.path == path).count();
        let at = OffsetDateTime::now_utc();
        let received = Received { path, id, headers, body, at, before };
        all.push(received.clone());
        received
    };
    match (shared.answer)(&received) {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::With(status, name, value) => {
            (StatusCode::from_u16(status).unwrap(), [(name, value)]).into_response()
        }
        Answer::Hang => {
            let _hanging = Hanging::new(shared);
            std::future::pending().await
        }
        Answer::After(told, status) => {
            told.notified().await;
            StatusCode::from_u16(status).unwrap().into_response()
        }
    }
}

/// Counts requests without an answer, until the other side hangs up.
struct Hanging(Arc<Shared>);

impl Hanging {
    fn new(shared: Arc<Shared>) -> Self {
        shared.hanging.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::SeqCst);
    }
}
