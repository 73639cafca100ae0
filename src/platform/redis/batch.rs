//! Commands of many requests, sent together.
//!
//! redis' multiplexed connection writes each command as soon as it comes, with a system call of
//! its own: at full load two of a request's three. Here whatever the requests that are ready to
//! run have to say is gathered first, and goes out by one write.

use std::time::Duration;

use deadpool_redis::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::timeout,
};

use crate::platform::shutdown::Tasks;

/// Commands in one write, at most: 100 kB or so.
const MOST_COMMANDS: usize = 256;

/// Batches on their way at the same time. What comes meanwhile makes the next one larger.
const MOST_BATCHES: usize = 8;

/// After this long nobody waits any more, whatever the time-out of a call. Without it the task of a
/// connection that fell silent would never end.
const SILENCE: Duration = Duration::from_secs(30);

/// Sends to one connection. Cheap to clone; the connection ends with the last one.
#[derive(Clone)]
pub(super) struct Batched {
    queue: mpsc::UnboundedSender<Waiting>,
}

/// A command, and who waits for its answer.
struct Waiting {
    command: Cmd,
    answer: oneshot::Sender<RedisResult<Value>>,
}

impl Batched {
    pub(super) fn new(connection: MultiplexedConnection, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            tokio::select! { () = drive(connection, waiting) => {}, () = stopping => {} }
        });
        Self { queue }
    }

    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let (answer, answered) = oneshot::channel();
        // Bounded by the requests that there may be, each of which waits for its answer.
        let sent = self.queue.send(Waiting { command: command.clone(), answer });
        sent.map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

async fn drive(connection: MultiplexedConnection, mut queue: mpsc::UnboundedReceiver<Waiting>) {
    let mut batches = FuturesUnordered::new();
    let mut waiting = Vec::with_capacity(MOST_COMMANDS);
    loop {
        tokio::select! {
            Some(()) = batches.next() => {}
            count = queue.recv_many(&mut waiting, MOST_COMMANDS),
                if batches.len() < MOST_BATCHES =>
            {
                if count == 0 {
                    return;
                }
                // Woken by the first command, this task runs before any other that is ready. Let
                // those run first: they may have something to say as well.
                yield_now().await;
                while waiting.len() < MOST_COMMANDS
                    && let Ok(next) = queue.try_recv()
                {
                    waiting.push(next);
                }
                let batch = std::mem::replace(&mut waiting, Vec::with_capacity(MOST_COMMANDS));
                batches.push(exchange(connection.clone(), batch));
            }
        }
    }
}

async fn exchange(mut connection: MultiplexedConnection, batch: Vec<Waiting>) {
    let mut commands = Pipeline::with_capacity(batch.len());
    let mut waiting = Vec::with_capacity(batch.len());
    let is_awaited = |waiting: &Waiting| !waiting.answer.is_closed();
    for Waiting { command, answer } in batch.into_iter().filter(is_awaited) {
        commands.add_command(command);
        waiting.push(answer);
    }
    if waiting.is_empty() {
        return;
    }
    let exchange = connection.send_packed_commands(&commands, 0, waiting.len());
    // Whoever no longer waits does not want to know.
    match timeout(SILENCE, exchange).await {
        // Dropped, which tells them.
        Err(_) => {}
        Ok(Ok(values)) => {
            for (answer, value) in waiting.into_iter().zip(values) {
                let _ = answer.send(Ok(value));
            }
        }
        Ok(Err(error)) => {
            for answer in waiting {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

fn lost() -> RedisError {
    (ErrorKind::Io, "the connection is gone").into()
}
