//! Memory that a disk can take as it is: direct I/O wants buffers that start at a multiple of [`ALIGNMENT`], and a pool
//! of them bounds what a pipeline holds.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What offset, length and address of direct I/O are multiples of here, in bytes. Logical sectors are 512 or 4096
/// bytes, a device's `dma_alignment` is less than a page, and file systems ask for at most their block: with 4096 a
/// request is right for all of them.
pub const ALIGNMENT: usize = 4096;

/// Bytes at an aligned address. They are allocated once and stay where they are, also when the buffer itself is moved;
/// all of them are initialised at any time.
pub struct Buffer {
    storage: Storage,
    length: usize,
    home: Option<Arc<Shelf>>,
}

/// Memory with room for `capacity` bytes from an aligned address on.
#[derive(Default)]
struct Storage {
    /// Never grows, so its heap block, and with it `start`, stays.
    bytes: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl Storage {
    fn new(capacity: usize) -> Self {
        // The kernel gives large blocks zeroed: nothing is touched before it is used.
        let bytes = vec![0; capacity.saturating_add(ALIGNMENT)];
        // Less than ALIGNMENT, or usize::MAX where there is no answer (in constant evaluation only).
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, capacity }
    }
}

impl Buffer {
    /// `capacity` zeroes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { storage: Storage::new(capacity), length: capacity, home: None }
    }

    /// The most bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.storage.capacity
    }

    /// Makes the first `length` bytes the content, at most [`Self::capacity`] of them. Bytes that come into it anew are
    /// what they were last: zero, or what was written before.
    pub fn set_len(&mut self, length: usize) {
        self.length = length.min(self.storage.capacity);
    }

    /// Shortens the content to `length` bytes; does nothing if it is no longer than that.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Gives the memory to nobody else, ever; its pool, if it has one, may allocate a buffer in its place.
    pub(crate) fn leak(mut self) {
        std::mem::forget(std::mem::take(&mut self.storage));
        if let Some(home) = self.home.take() {
            home.lock().unmade += 1;
            home.returned.notify_one();
        }
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.storage.bytes.get(self.storage.start..self.storage.start + self.length).unwrap_or_default()
    }

    /// The content, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.storage.bytes.get_mut(self.storage.start..self.storage.start + self.length).unwrap_or_default()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("length", &self.length)
            .field("capacity", &self.capacity())
            .field("pooled", &self.home.is_some())
            .finish()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.lock().idle.push(std::mem::take(&mut self.storage));
            home.returned.notify_one();
        }
    }
}

/// A bounded number of buffers that come back when they are dropped.
#[derive(Debug, Clone)]
pub struct BufferPool {
    shelf: Arc<Shelf>,
}

struct Shelf {
    stock: Mutex<Stock>,
    returned: Condvar,
    capacity: usize,
}

struct Stock {
    idle: Vec<Storage>,
    /// How many may still be allocated.
    unmade: usize,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stock = self.lock();
        f.debug_struct("Shelf")
            .field("capacity", &self.capacity)
            .field("idle", &stock.idle.len())
            .field("unmade", &stock.unmade)
            .finish()
    }
}

impl BufferPool {
    /// At most `count` buffers of `capacity` bytes, each allocated when it is first needed. At least one.
    #[must_use]
    pub fn new(count: usize, capacity: usize) -> Self {
        let stock = Stock { idle: Vec::new(), unmade: count.max(1) };
        Self { shelf: Arc::new(Shelf { stock: Mutex::new(stock), returned: Condvar::new(), capacity }) }
    }

    /// A buffer of full length, as soon as one is free. Its content is zeroes or what its last user left.
    #[must_use]
    pub fn take(&self) -> Buffer {
        let mut stock = self.shelf.lock();
        let storage = loop {
            if let Some(storage) = stock.idle.pop() {
                break storage;
            }
            if let Some(rest) = stock.unmade.checked_sub(1) {
                stock.unmade = rest;
                drop(stock);
                break Storage::new(self.shelf.capacity);
            }
            stock = self.shelf.returned.wait(stock).unwrap_or_else(PoisonError::into_inner);
        };
        Buffer { length: storage.capacity, storage, home: Some(Arc::clone(&self.shelf)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_stays_where_it_is() {
        for capacity in [0, 1, 512, 4096, 1 << 20] {
            let mut buffer = Buffer::new(capacity);
            let address = buffer.as_ptr();
            assert_eq!((address.addr() % ALIGNMENT, buffer.len(), buffer.capacity()), (0, capacity, capacity));
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            buffer.truncate(100);
            assert_eq!(buffer.len(), capacity.min(100));
            buffer.truncate(capacity);
            assert_eq!(buffer.len(), capacity.min(100));
            buffer.set_len(capacity + 1);
            let moved = Box::new(buffer);
            assert_eq!((moved.len(), moved.as_ptr()), (capacity, address));
            assert!(moved.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn a_pool_gives_no_more_buffers_than_it_has_and_each_again() {
        let pool = BufferPool::new(2, 8192);
        let (one, mut two) = (pool.take(), pool.take());
        let address = two.as_ptr().addr();
        two.fill(9);
        two.set_len(512);
        let (taken, waited) = mpsc::channel();
        let other = pool.clone();
        let thread = thread::spawn(move || taken.send(other.take().as_ptr().addr()).unwrap());
        assert_eq!(waited.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(two);
        assert_eq!(waited.recv().unwrap(), address);
        thread.join().unwrap();
        let again = pool.take();
        assert_eq!((again.as_ptr().addr(), again.len(), again[0], again[8191]), (address, 8192, 9, 9));
        assert_eq!(format!("{pool:?}"), "BufferPool { shelf: Shelf { capacity: 8192, idle: 0, unmade: 0 } }");
        drop((one, again));
        assert_eq!(format!("{pool:?}"), "BufferPool { shelf: Shelf { capacity: 8192, idle: 2, unmade: 0 } }");
    }

    #[test]
    fn memory_that_is_leaked_is_made_anew() {
        let pool = BufferPool::new(1, 4096);
        let mut first = pool.take();
        first.fill(1);
        first.leak();
        assert!(pool.take().iter().all(|byte| *byte == 0));
    }
}
