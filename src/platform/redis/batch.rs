//! Commands of many requests, sent together.
//!
//! redis' multiplexed connection writes each command as soon as it comes, with a system call of
//! its own: at full load two of a request's three. Here whatever the requests that are ready to
//! run have to say is gathered first, and goes out by one write.

use deadpool_redis::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
};

use crate::platform::shutdown::Tasks;

/// Commands in one write, at most: 100 kB or so.
const MOST_COMMANDS: usize = 256;

/// Batches on their way at the same time. What comes meanwhile makes the next one larger.
const MOST_BATCHES: usize = 8;

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
    let count = batch.len();
    let mut commands = Pipeline::with_capacity(count);
    let mut waiting = Vec::with_capacity(count);
    for Waiting { command, answer } in batch {
        commands.add_command(command);
        waiting.push(answer);
    }
    // Whoever no longer waits does not want to know.
    match connection.send_packed_commands(&commands, 0, count).await {
        Ok(values) => {
            for (answer, value) in waiting.into_iter().zip(values) {
                let _ = answer.send(match value {
                    Value::ServerError(error) => Err(error.into()),
                    value => Ok(value),
                });
            }
        }
        Err(error) => {
            for answer in waiting {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

fn lost() -> RedisError {
    (ErrorKind::Io, "the connection is gone").into()
}
