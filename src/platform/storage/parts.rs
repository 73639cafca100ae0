//! Bodies of unknown length, stored as they come in and never held whole: what a client sends
//! fills a buffer of one part, which goes out before the next is read.

use std::{fmt::Display, future::Future, pin::pin, sync::Arc, time::Duration};

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use super::{
    Error, Inner, NewObject, Storage,
    buffers::{Buffer, Buffers},
    objects,
};
use crate::platform::{context, shutdown::Tasks};

/// The least that S3 takes for any part but the last.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// For all bodies of this process together: three of more than 1 MiB, or dozens of smaller ones.
pub(super) const MEMORY_KIB: usize = 3 * PART_BYTES / 1024;

/// How long a body waits for memory. It is given back within the time that a body may take,
/// and most often within a second.
const MEMORY_WAIT: Duration = Duration::from_secs(10);

/// What was stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Bytes, at least 1.
    pub size: u64,
    pub sha256: [u8; 32],
}

/// Why a body was not stored. Nothing is left of it then, or will not be for long.
#[derive(Debug, thiserror::Error)]
pub enum StreamError<E: Display> {
    #[error("the body has more bytes than it may")]
    TooLarge,
    #[error("the body is empty")]
    Empty,
    /// It broke off, or came too slowly.
    #[error("{0}")]
    Body(E),
    #[error(transparent)]
    Storage(#[from] Error),
}

/// The size of a body.
#[derive(Debug, Clone, Copy)]
pub struct BodySize {
    /// As far as it is known beforehand, in bytes.
    pub announced: Option<u64>,
    /// Bytes that are taken, at most.
    pub max: u64,
}

impl Storage {
    /// Stores `body` under a key, and tells its size and hash. What is larger than one part is
    /// sent in parts, which are given up if this is dropped or fails; `tasks` runs that.
    ///
    /// # Errors
    /// `TooLarge`, as soon as that is seen; `Empty`; whatever `body` fails with; or no answer.
    pub async fn store<E: Display>(
        &self,
        tasks: &Tasks,
        new: &NewObject<'_>,
        size: BodySize,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Stored, StreamError<E>> {
        if size.announced.is_some_and(|announced| announced > size.max) {
            return Err(StreamError::TooLarge);
        }
        // HTTP lets no body be larger than its length says, and the part has room for no more.
        let max = size.announced.unwrap_or(size.max);
        let room = usize::try_from(max).map_or(PART_BYTES, |max| max.clamp(1, PART_BYTES));
        let mut part = self.part(room).await?;
        let mut body = pin!(body);
        let mut hash = Sha256::new();
        let mut received = 0;
        let mut parts: Option<Parts> = None;
        while let Some(frame) = body.next().await {
            let mut frame = frame.map_err(StreamError::Body)?;
            received += frame.len() as u64;
            if received > max {
                return Err(StreamError::TooLarge);
            }
            hash.update(&frame);
            while !frame.is_empty() {
                // Only now that something follows: the last part must not be empty.
                if part.is_full() {
                    let parts = match &mut parts {
                        Some(parts) => parts,
                        None => parts.insert(Parts::begin(self, tasks, new).await?),
                    };
                    parts.send(part.take()).await?;
                }
                part.fill(&mut frame);
            }
        }
        match parts {
            _ if received == 0 => return Err(StreamError::Empty),
            None => self.put(new, part.take().bytes).await?,
            Some(mut parts) => {
                parts.send(part.take()).await?;
                parts.complete().await?;
            }
        }
        Ok(Stored { size: received, sha256: hash.finalize().into() })
    }

    /// A part of `size` bytes, once there is memory for it.
    async fn part(&self, size: usize) -> Result<Filling, Error> {
        let kib = u32::try_from(Buffers::room(size).div_ceil(1024)).unwrap_or(u32::MAX);
        let memory = self.0.memory.clone().acquire_many_owned(kib);
        let memory = timeout(context::remaining(MEMORY_WAIT), memory).await;
        let Ok(Ok(memory)) = memory else {
            return Err(Error::Busy);
        };
        let buffers = self.0.buffers.clone();
        Ok(Filling { buffer: None, size, buffers, memory: Arc::new(memory) })
    }
}

/// A part, as it comes in.
struct Filling {
    /// None before the first of its bytes: that of the part before is used again.
    buffer: Option<Buffer>,
    size: usize,
    buffers: Arc<Buffers>,
    memory: Arc<OwnedSemaphorePermit>,
}

/// What goes out. Its memory counts until it is sent.
struct Part {
    bytes: Bytes,
    memory: Arc<OwnedSemaphorePermit>,
}

impl Filling {
    fn is_full(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.len() == self.size)
    }

    /// Takes from `frame` what there is room for.
    fn fill(&mut self, frame: &mut Bytes) {
        let buffer = self.buffer.get_or_insert_with(|| self.buffers.take(self.size));
        let room = frame.len().min(self.size - buffer.len());
        buffer.extend(&frame.split_to(room));
    }

    fn take(&mut self) -> Part {
        let bytes = self.buffer.take().map(Buffer::freeze).unwrap_or_default();
        Part { bytes, memory: self.memory.clone() }
    }
}

/// An upload in parts that has begun. Dropped before its end, it is aborted, so that no part is
/// left to be paid for.
///
/// What is asked of S3 is asked to its end, on a task of its own, whoever has stopped to wait for
/// it: a part that arrives after the abortion would stay, as would an upload whose id nobody has
/// heard of.
struct Parts {
    storage: Storage,
    tasks: Tasks,
    /// With the prefix of this deployment.
    key: Arc<str>,
    id: Arc<str>,
    sent: Vec<CompletedPart>,
    /// One call at a time, and the abortion after all of them.
    turn: Arc<Semaphore>,
    is_over: bool,
}

impl Parts {
    async fn begin(storage: &Storage, tasks: &Tasks, new: &NewObject<'_>) -> Result<Self, Error> {
        let key: Arc<str> = storage.full_key(new.key).into();
        let begin = storage.0.client.create_multipart_upload().bucket(&storage.0.bucket);
        let begin = begin
            .key(&*key)
            .content_type(new.content_type)
            .content_disposition(objects::ATTACHMENT)
            .cache_control(objects::IMMUTABLE);
        let (storage, own_tasks) = (storage.clone(), tasks.clone());
        let begin = async move {
            let begun =
                storage.call("create_parts", async { Ok(begin.send().await?) }.boxed()).await?;
            let id = begun.upload_id.ok_or_else(|| Error::Refused("it has no id".to_owned()))?;
            let (sent, turn) = (Vec::new(), Arc::new(Semaphore::new(1)));
            let (id, tasks, is_over) = (id.into(), own_tasks, false);
            Ok(Self { storage, tasks, key, id, sent, turn, is_over })
        };
        to_the_end(tasks, begin).await
    }

    async fn send(&mut self, part: Part) -> Result<(), Error> {
        let number = i32::try_from(self.sent.len() + 1).unwrap_or(i32::MAX);
        let Inner { client, bucket, .. } = &*self.storage.0;
        let send = client.upload_part().bucket(bucket).key(&*self.key).upload_id(&*self.id);
        let send = send.part_number(number).body(ByteStream::from(part.bytes));
        let (storage, turn) = (self.storage.clone(), self.turn.clone().acquire_owned().await);
        let send = async move {
            let sent = storage.call("send_part", async { Ok(send.send().await?) }.boxed()).await;
            drop((part.memory, turn));
            sent
        };
        let sent = to_the_end(&self.tasks, send).await?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
        self.sent.push(part.build());
        Ok(())
    }

    async fn complete(mut self) -> Result<(), Error> {
        let parts = std::mem::take(&mut self.sent);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let Inner { client, bucket, .. } = &*self.storage.0;
        let complete = client.complete_multipart_upload().bucket(bucket).key(&*self.key);
        let complete = complete.upload_id(&*self.id).multipart_upload(parts);
        let (storage, turn) = (self.storage.clone(), self.turn.clone().acquire_owned().await);
        let complete = async move {
            let send = async { Ok(complete.send().await?) }.boxed();
            let completed = storage.call("complete_parts", send).await;
            drop(turn);
            completed
        };
        to_the_end(&self.tasks, complete).await?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (storage, turn) = (self.storage.clone(), self.turn.clone());
        let (key, id) = (self.key.clone(), self.id.clone());
        self.tasks.spawn(async move {
            let _turn = turn.acquire_owned().await;
            let abort = storage.0.client.abort_multipart_upload().bucket(&storage.0.bucket);
            let abort = abort.key(&*key).upload_id(&*id);
            match storage.call("abort", async { Ok(abort.send().await?) }.boxed()).await {
                // Completed after all, though its answer did not come: the object is swept.
                Ok(_) | Err(Error::NotFound) => {}
                Err(error) => tracing::warn!(%error, %key, "parts are left to the sweep"),
            }
        });
    }
}

/// Runs `call` on a task of its own. What it gives is dropped there if nobody waits any longer.
async fn to_the_end<T: Send + 'static>(
    tasks: &Tasks,
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    tasks.spawn(async move {
        // An error gives back what was to be sent, to be dropped: an upload that has begun is aborted.
        let _ = sender.send(call.await);
    });
    let lost = |_| Err(Error::Unavailable("the task of a call was lost".to_owned()));
    receiver.await.unwrap_or_else(lost)
}
