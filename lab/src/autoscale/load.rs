//! Sends what the profile asks for, whether it is answered or not, and counts what comes of it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::shop::{Request, Shop};
use crate::error::{Context, Error, Result};

/// Longer than any deadline of the service.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks what is due.
const TICK: Duration = Duration::from_millis(5);
/// What an order takes whose product's stock is somebody else's. Some are always on their way, so that every
/// replica that leaves has one. Less than the second for which the role of the application waits for a lock.
const HELD: Duration = Duration::from_millis(500);
/// Enough to see what went wrong.
const EXAMPLES: usize = 5;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answered as they should be.
    pub answered: u64,
    /// Answered otherwise, or not at all.
    pub failed: u64,
    /// The first few failures, in words.
    pub examples: Vec<String>,
    /// Milliseconds of those answered.
    pub millis: Vec<f64>,
}

/// Load on a thread of its own.
#[derive(Debug)]
pub(super) struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Stop,
    thread: JoinHandle<Result<()>>,
}

/// Nobody sends for a simulation that is over, however it ended.
#[derive(Debug)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Sends `rate` requests a second to `port`, and slow orders besides. `database` is a superuser's URL.
    pub(super) fn start(
        port: u16,
        shop: Shop,
        database: String,
        rate: impl Fn() -> f64 + Send + 'static,
    ) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.cannot(|| "start the runtime of the load".to_owned())?;
        let (tally, stop) = (Arc::<Mutex<Tally>>::default(), Arc::<AtomicBool>::default());
        let sender = Sender { port, shop: Arc::new(shop), tally: tally.clone() };
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let slow = tokio::spawn(sender.clone().hold(database, stopped.clone()));
                sender.send(rate, stopped).await;
                slow.await.map_err(|_| Error::new("the slow orders panicked"))?
            })
        });
        Ok(Self { tally, stop: Stop(stop), thread })
    }

    /// Ends once all that was sent is answered.
    pub(super) fn end(self) -> Result<Tally> {
        drop(self.stop);
        self.thread.join().map_err(|_| Error::new("the load panicked"))??;
        Ok(self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[derive(Clone)]
struct Sender {
    port: u16,
    shop: Arc<Shop>,
    tally: Arc<Mutex<Tally>>,
}

impl Sender {
    async fn send(self, rate: impl Fn() -> f64, stop: Arc<AtomicBool>) {
        let (mut requests, mut number, mut due) = (JoinSet::new(), 0, 0.0);
        let mut last = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(TICK).await;
            // What a stall has kept from being sent is not made up for: nobody asked for a burst.
            due += rate() * last.elapsed().min(TICK * 2).as_secs_f64();
            last = Instant::now();
            while due >= 1.0 {
                due -= 1.0;
                number += 1;
                let (own, request) = (self.clone(), self.shop.request(number));
                requests.spawn(async move { own.one(&request).await });
            }
            while requests.try_join_next().is_some() {}
        }
        requests.join_all().await;
    }

    /// Orders of products whose stock it holds itself while they are on their way.
    async fn hold(self, database: String, stop: Arc<AtomicBool>) -> Result<()> {
        let mut holders = JoinSet::new();
        for product in self.shop.held().to_vec() {
            let (own, database, stop) = (self.clone(), database.clone(), stop.clone());
            holders.spawn(async move {
                let what = || "hold a product's stock".to_owned();
                let mut connection = PgConnection::connect(&database).await.cannot(what)?;
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut holder = connection.begin().await.cannot(what)?;
                    let lock = "select from inventory where product_id = $1::uuid for update";
                    sqlx::query(lock).bind(&product).execute(&mut *holder).await.cannot(what)?;
                    let request = own.shop.order(number, &product);
                    let (released, ()) = tokio::join!(
                        async {
                            tokio::time::sleep(HELD).await;
                            holder.rollback().await.cannot(what)
                        },
                        own.one(&request)
                    );
                    released?;
                }
                Ok(())
            });
        }
        holders.join_all().await.into_iter().collect()
    }

    async fn one(&self, request: &Request) {
        let began = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, exchange(self.port, &request.text)).await;
        let failure = match answer {
            Ok(Ok(status)) if status == request.expected => None,
            Ok(Ok(status)) => Some(format!("answered {status}")),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("was not answered".to_owned()),
        };
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None => {
                tally.answered += 1;
                tally.millis.push(began.elapsed().as_secs_f64() * 1e3);
            }
            Some(failure) => {
                tally.failed += 1;
                if tally.examples.len() < EXAMPLES {
                    let line = request.text.lines().next().unwrap_or_default();
                    tally.examples.push(format!("{line}: {failure}"));
                }
            }
        }
    }
}

/// The status of the answer, once it is there to its end.
async fn exchange(port: u16, request: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.ok_or_else(|| io::Error::other("the connection was closed without an answer"))
}
