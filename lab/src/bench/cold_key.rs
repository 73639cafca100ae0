//! Many requests at once for one product that no cache has, over several replicas: how often is the database
//! asked?

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::data::PRODUCTS;
use super::http;
use super::metrics::Counters;
use super::stage::Stage;
use crate::api::Api;
use crate::error::{Context, Error, Result};
use crate::ports::Port;

/// Requests at the same time.
const REQUESTS: usize = 1_000;
/// Replicas that they go to.
const REPLICAS: usize = 3;
/// Products that this is tried with.
const TRIES: usize = 3;
/// Clients come from as many addresses, as in life: one alone may meet a limit of connections.
const CLIENT_ADDRESSES: usize = 200;

/// What came of it; the worst of all tries.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ColdKey {
    pub(super) requests: usize,
    pub(super) replicas: usize,
    pub(super) tries: usize,
    /// Loads from the database for one product; `None` if the service does not count them.
    pub(super) loads: Option<f64>,
    /// Look-ups that did not find it in Redis.
    pub(super) misses: Option<f64>,
    /// Answers other than 200 in all tries.
    pub(super) errors: usize,
}

/// Asks. The other replicas run beside the load generator, and only for this.
pub(super) fn run(stage: &Stage<'_>) -> Result<ColdKey> {
    let more: Vec<Api> = (2..=REPLICAS)
        .map(|number| Api::start(stage.site, &format!("api-{number}"), Port::free()?, &stage.shoal))
        .collect::<Result<_>>()?;
    let ports: Vec<u16> = std::iter::once(&stage.api).chain(&more).map(Api::port).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.cannot(|| "start the runtime".to_owned())?;
    let mut result = ColdKey {
        requests: REQUESTS,
        replicas: REPLICAS,
        tries: TRIES,
        loads: None,
        misses: None,
        errors: 0,
    };
    for number in 0..TRIES {
        // None of the hot ones, which are the first.
        let path = format!("/v1/products/{}", stage.data.product(PRODUCTS - number));
        let before = scrape_all(&ports)?;
        let good = runtime.block_on(ask(&ports, &path))?;
        let after = scrape_all(&ports)?;
        result.errors += REQUESTS - good;
        let grown = |kind| grown(&before, &after, kind);
        result.loads = most(result.loads, grown("load"));
        result.misses = most(result.misses, grown("miss"));
    }
    Ok(result)
}

fn most(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

fn scrape_all(ports: &[u16]) -> Result<Vec<Counters>> {
    ports.iter().map(|port| Counters::scrape(*port)).collect()
}

/// Over all replicas. A replica that has not counted any yet may not show the series.
fn grown(before: &[Counters], after: &[Counters], result: &str) -> Option<f64> {
    let labels = [("cache", "product"), ("result", result)];
    let each = before
        .iter()
        .zip(after)
        .filter_map(|(before, after)| after.growth(before, "cache_requests_total", &labels));
    each.reduce(|a, b| a + b)
}

/// Opens all connections, then sends all requests. Answers how many were answered by 200.
async fn ask(ports: &[u16], path: &str) -> Result<usize> {
    let ready = Arc::new(Barrier::new(REQUESTS));
    let request: Arc<str> =
        format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").into();
    let mut clients = JoinSet::new();
    for (number, port) in (0..REQUESTS).zip(ports.iter().copied().cycle()) {
        let (ready, request) = (ready.clone(), request.clone());
        clients.spawn(async move { client(number, port, &ready, &request).await });
    }
    let mut good = 0;
    for answer in clients.join_all().await {
        // What broke on the way is an answer other than 200.
        good += usize::from(answer.is_ok_and(|status| status == 200));
    }
    if good == 0 {
        return Err(Error::new(format!("none of {REQUESTS} requests for {path} was answered")));
    }
    Ok(good)
}

async fn client(number: usize, port: u16, ready: &Barrier, request: &str) -> Result<u16> {
    let what = || "ask for a product".to_owned();
    let connected = connect(number, port).await;
    // Also without a connection: the others wait.
    ready.wait().await;
    let mut stream = connected.cannot(what)?;
    stream.write_all(request.as_bytes()).await.cannot(what)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.cannot(what)?;
    let answer = http::parse(&bytes).ok_or_else(|| Error::new("no HTTP came back"))?;
    Ok(answer.status)
}

async fn connect(number: usize, port: u16) -> std::io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // All of 127.0.0.0/8 is loopback; the first address is the proxy's.
    let own = Ipv4Addr::new(127, 0, 1, u8::try_from(number % CLIENT_ADDRESSES).unwrap_or(0) + 1);
    socket.bind(SocketAddr::from((own, 0)))?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}
