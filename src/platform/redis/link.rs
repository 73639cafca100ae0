//! The connection to Redis, made when it is needed and made anew when it broke.
//!
//! Not redis' `ConnectionManager`: it keeps a connection that fell silent, and one to a server
//! that was demoted to a replica.

use std::{
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection, PubSub},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::batch::Batched;
use crate::platform::shutdown::Tasks;

/// How long connecting may take. Each caller waits no longer than its own time-out; the attempt
/// is shared by all that come meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that many calls share at once. Cheap to clone.
#[derive(Clone)]
pub(super) enum Link {
    Single(Batched),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let value = match self {
            Self::Single(connection) => connection.send(command).await?,
            Self::Cluster(connection) => connection.req_packed_command(command).await?,
        };
        match value {
            Value::ServerError(error) => Err(error.into()),
            value => Ok(value),
        }
    }
}

type Dial = Shared<BoxFuture<'static, Option<Link>>>;

/// The current connection, if there is one, and how to make the next.
pub(super) struct Links {
    /// One for each server named in the configuration.
    servers: Vec<Client>,
    /// How to reach all of them as one cluster, if there are several.
    cluster: Option<ClusterClient>,
    tasks: Tasks,
    current: RwLock<Option<(Dial, u64)>>,
    /// Tells the connections apart, so that a late complaint about one does not end the next.
    generations: AtomicU64,
}

impl Links {
    pub(super) fn new(
        urls: &[SecretString],
        response_timeout: Duration,
        tasks: Tasks,
    ) -> RedisResult<Self> {
        let servers = urls.iter().map(|url| Client::open(url.expose_secret()));
        let servers = servers.collect::<RedisResult<Vec<_>>>()?;
        let cluster = if servers.len() > 1 {
            let urls = urls.iter().map(|url| url.expose_secret().to_owned());
            let builder = ClusterClientBuilder::new(urls)
                .connection_timeout(CONNECT_TIMEOUT)
                // The client has to see that one node is silent, to look for its successor.
                .response_timeout(response_timeout)
                // Slots move and nodes fail over: once is enough to follow them, and the caller's
                // time-out bounds all of it.
                .retries(1);
            Some(builder.build()?)
        } else {
            None
        };
        Ok(Self {
            servers,
            cluster,
            tasks,
            current: RwLock::new(None),
            generations: AtomicU64::new(0),
        })
    }

    /// The connection and its generation. `None` if none could be made.
    pub(super) async fn get(&self) -> Option<(Link, u64)> {
        let (dial, generation) = self.current();
        let link = match dial.peek() {
            Some(link) => link.clone(),
            None => dial.await,
        };
        if link.is_none() {
            self.forget(generation);
        }
        Some((link?, generation))
    }

    /// Makes sure that the connection of this generation is not used again.
    pub(super) fn forget(&self, generation: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*current, Some((_, now)) if *now == generation) {
            *current = None;
        }
    }

    /// Makes sure that the present connection, whichever it is, is not used again. One that is
    /// being made is left to its own time-out, which is longer than a caller's.
    pub(super) fn forget_established(&self) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*current, Some((dial, _)) if dial.peek().is_some()) {
            *current = None;
        }
    }

    fn current(&self) -> (Dial, u64) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*current {
            return current.clone();
        }
        drop(current);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current
            .get_or_insert_with(|| (self.dial(), self.generations.fetch_add(1, Ordering::Relaxed)))
            .clone()
    }

    fn dial(&self) -> Dial {
        let (servers, cluster) = (self.servers.clone(), self.cluster.clone());
        let tasks = self.tasks.clone();
        let dial = async move {
            let connect = async {
                match (cluster, servers.first()) {
                    (Some(cluster), _) => cluster.get_async_connection().await.map(Link::Cluster),
                    (None, Some(server)) => {
                        let connection = connect(server).await?;
                        Ok(Link::Single(Batched::new(connection, &tasks)))
                    }
                    (None, None) => Err(no_server()),
                }
            };
            match timeout(CONNECT_TIMEOUT, connect).await {
                Ok(Ok(link)) => Some(link),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot connect to Redis");
                    None
                }
                Err(_) => None,
            }
        };
        dial.boxed().shared()
    }

    /// Messages on `channel`. In a cluster every node hears of every message, so any will do.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<PubSub> {
        let mut failure = no_server();
        for server in &self.servers {
            let connect = async {
                let mut messages = server.get_async_pubsub().await?;
                messages.subscribe(channel).await?;
                Ok(messages)
            };
            match timeout(CONNECT_TIMEOUT, connect).await {
                Ok(Ok(messages)) => return Ok(messages),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = (ErrorKind::Io, "no answer in time").into(),
            }
        }
        Err(failure)
    }
}

async fn connect(server: &Client) -> RedisResult<MultiplexedConnection> {
    // Bounded around the whole call by whoever makes it.
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    server.get_multiplexed_async_connection_with_config(&config).await
}

fn no_server() -> RedisError {
    (ErrorKind::InvalidClientConfig, "no server is configured").into()
}
