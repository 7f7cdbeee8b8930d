//! A queue of writes to a part of a disk, with many of them under way at once: a drive is only fast when it has several
//! requests to work on.
//!
//! # Design
//! A write holds a ticket from the moment it has room in the queue until it is done; [`Writer::drain`] waits for the
//! tickets that were given before it. Two engines do the work: io_uring on the direct descriptor of a real disk, and
//! threads that call `Disk::write_at` everywhere else, so that a disk which records, fails or refuses writes sees each
//! of them. The first error ends it all: what waits is dropped, and every later call returns that error.

mod queue;
mod threads;
mod uring;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use queue::{Queue, Write};

use super::{ALIGNMENT, Buffer, Region, WRITING, as_u64};
use crate::sys::Waker;

/// More requests than this at a time make no drive faster.
const DEEPEST: usize = 1024;

/// Writes verified bytes to a part of a disk with many requests under way. What was written is on stable storage only after a
/// [`Self::drain`] and then a flush of the disk. Dropped, it waits for what is under way and writes nothing more.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    engine: Engine,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
enum Engine {
    Threads,
    Ring(Waker),
}

impl Writer {
    /// Starts a queue of `depth` requests for `region`: by io_uring if the kernel and the disk give it, else by threads.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(region: Region, depth: usize) -> io::Result<Self> {
        match uring::ring_for(&region, depth.clamp(1, DEEPEST)) {
            Some(ring) => uring::start(Queue::new(region, depth), ring),
            None => Self::start_threads(region, depth),
        }
    }

    /// The same by threads whatever there is: their writes are synchronous, after which no page that was read meanwhile stays in
    /// the page cache (see `disk/direct.rs`).
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start_threads(region: Region, depth: usize) -> io::Result<Self> {
        threads::start(Queue::new(region, depth.min(threads::MOST)))
    }

    /// Queues a write of `buffer` (whole sectors) at `offset` of the region; waits while `depth` requests are under way.
    /// The order of two writes under way is not kept, so they must not overlap. The buffer goes back to its pool when
    /// it is written. Nothing is merged here: a request that waits does so only until the engine sees it, and the kernel
    /// merges neighbours that are submitted together.
    ///
    /// # Errors
    /// This or an earlier write failed (the first error, which is kept; nothing more is written after it); a range
    /// outside of the region is such a failure too.
    pub fn write(&self, offset: u64, buffer: Buffer) -> io::Result<()> {
        let length = as_u64(buffer.len());
        let ticket = self.queue.enter()?;
        if length == 0 {
            drop(buffer);
            return self.queue.finish(ticket, Ok(0));
        }
        let position = match self.queue.region.position(WRITING, offset, length) {
            Ok(position) => position,
            Err(error) => {
                drop(buffer);
                return self.queue.finish(ticket, Err(error));
            }
        };
        let write = Write { ticket, position, buffer };
        match &self.engine {
            Engine::Threads => self.queue.push(write, None),
            Engine::Ring(waker) => match self.direct_file(&write) {
                Some(file) => {
                    self.queue.push(write, Some(file))?;
                    waker.wake()
                }
                // An odd end of an image, or a write that is refused: `write_at` knows what to do and to say.
                None => self.queue.write_now(write),
            },
        }
    }

    fn direct_file(&self, write: &Write) -> Option<Arc<File>> {
        let aligned = write.buffer.as_ptr().addr().is_multiple_of(ALIGNMENT);
        let disk = self.queue.region.disk.as_ref();
        disk.direct_file(write.position, as_u64(write.buffer.len())).filter(|_| aligned)
    }

    /// Makes a range of the region read as zeroes before it returns, under the same rules as [`Self::write`].
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let ticket = self.queue.enter()?;
        let done = self.queue.region.write_zeroes(offset, length);
        self.queue.finish(ticket, done.map(|()| length))
    }

    /// Returns when everything queued before is done. It need not be on stable storage.
    ///
    /// # Errors
    /// A write failed.
    pub fn drain(&self) -> io::Result<()> {
        self.queue.drain()
    }

    /// Bytes whose write has completed so far, zeroes among them.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.queue.completed.load(Ordering::Relaxed)
    }

    /// What does the writing: `io_uring` or `threads`.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        match self.engine {
            Engine::Threads => "threads",
            Engine::Ring(_) => "io_uring",
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        if let Engine::Ring(waker) = &self.engine {
            // Fails only when as many wakes are pending as a u64 holds, and then it is not needed.
            let _ = waker.wake();
        }
        for thread in self.threads.drain(..) {
            // It was said on the console if one panicked, and its writes still have their tickets.
            let _ = thread.join();
        }
    }
}
