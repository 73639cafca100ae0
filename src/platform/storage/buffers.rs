//! Memory for large files, used again and again. Given back to the allocator, it would pile up
//! there: what one file frees is still kept for a moment when the next one asks for as much.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Bytes that buffers are made in multiples of, so that the next file's fits as well. Of what is
/// smaller the allocator takes better care.
const UNIT: usize = 5 * 1024 * 1024;
const SMALL: usize = 1024 * 1024;

/// Bytes that are kept, at most: what is in use at the same time on two cores.
const KEPT: usize = 40 * 1024 * 1024;

/// The buffers of this process that nobody needs just now. How many are in use is bounded by those
/// who use them.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// Bytes as they come in.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    /// An empty one for `size` bytes.
    pub(super) fn take(self: &Arc<Self>, size: usize) -> Buffer {
        let room = Self::room(size);
        let kept = if size > SMALL { self.take_kept(room) } else { None };
        Buffer { bytes: kept.unwrap_or_else(|| Vec::with_capacity(room)), home: self.clone() }
    }

    /// Bytes of memory that one for `size` bytes takes.
    pub(super) fn room(size: usize) -> usize {
        if size > SMALL { size.next_multiple_of(UNIT) } else { size }
    }

    fn take_kept(&self, room: usize) -> Option<Vec<u8>> {
        let mut kept = self.kept();
        let index = kept.iter().position(|bytes| Self::room(bytes.capacity()) == room)?;
        Some(kept.swap_remove(index))
    }

    fn keep(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut kept = self.kept();
        let sum: usize = kept.iter().map(Vec::capacity).sum();
        if sum + bytes.capacity() <= KEPT {
            kept.push(bytes);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What came in. Its memory is used again once nobody has any of it.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() > SMALL {
            self.home.keep(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_file_has_the_memory_of_the_one_before() {
        let buffers = Arc::new(Buffers::default());
        let mut first = buffers.take(2 * UNIT);
        first.extend(b"first");
        let memory = first.as_ref().as_ptr();
        let (whole, copy) = (first.freeze(), buffers.take(SMALL));
        let part = whole.slice(1..3);
        drop((whole, copy));
        assert!(
            buffers.kept().is_empty(),
            "somebody has a part of it, and small ones are not kept"
        );
        drop(part);
        let second = buffers.take(UNIT + 1);
        assert_eq!((second.as_ref().as_ptr(), second.len()), (memory, 0));
    }

    #[test]
    fn no_more_is_kept_than_is_used_at_the_same_time() {
        let buffers = Arc::new(Buffers::default());
        let taken: Vec<Buffer> = (0..20).map(|_| buffers.take(UNIT)).collect();
        drop(taken);
        assert_eq!(buffers.kept().len(), KEPT / UNIT);
    }
}
