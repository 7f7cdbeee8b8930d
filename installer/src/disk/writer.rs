//! A queue of writes to a part of a disk, with many of them under way at once: a drive is only fast when it has several
//! requests to work on.
//!
//! # Design
//! A write holds a ticket from the moment it has room in the queue until it is done; [`Writer::drain`] waits for the
//! tickets that were given before it. Two engines do the work: io_uring on the direct descriptor of a real disk, and
//! threads that call `Disk::write_at` everywhere else, so that a disk which records, fails or refuses writes sees each
//! of them. The first error ends it all: what waits is dropped, and every later call returns that error.

mod threads;
mod uring;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{ALIGNMENT, Buffer, Region, WRITING, as_u64};
use crate::sys::Waker;

/// More requests than this at a time make no drive faster.
const DEEPEST: usize = 1024;

/// Writes verified bytes to a part of a disk with many requests under way. Dropped without [`Self::finalize`] it waits
/// for what is under way and writes nothing more.
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

    /// The same by threads whatever there is, as for a comparison.
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
            return self.queue.finish(ticket, Ok(0));
        }
        let position = match self.queue.region.position(WRITING, offset, length) {
            Ok(position) => position,
            Err(error) => return self.queue.finish(ticket, Err(error)),
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

    /// Waits until everything is done, and then until it is on stable storage, the drive's cache included. Without this
    /// call nothing that was written is sure to survive.
    ///
    /// # Errors
    /// A write failed, or the flush did: what was written may be lost.
    pub fn finalize(self) -> io::Result<()> {
        self.drain()?;
        self.queue.region.disk.flush()
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

/// A write with a place in the queue.
#[derive(Debug)]
struct Write {
    ticket: u64,
    /// Bytes from the disk's start.
    position: u64,
    buffer: Buffer,
}

/// A write that no engine has taken yet, and the file that an io_uring writes it to.
type Waiting = (Write, Option<Arc<File>>);

/// What callers and engine share.
#[derive(Debug)]
struct Queue {
    region: Region,
    depth: usize,
    state: Mutex<State>,
    /// Something waits, or the queue is closed.
    work: Condvar,
    /// A ticket came back.
    room: Condvar,
    completed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Of writes that wait or are under way.
    tickets: BTreeSet<u64>,
    next_ticket: u64,
    failed: Option<Arc<io::Error>>,
    closed: bool,
}

impl State {
    fn result(&self) -> io::Result<()> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(io::Error::new(error.kind(), Kept(Arc::clone(error)))))
    }

    /// Takes back what waits; its buffers are for dropping outside of the lock.
    fn give_up(&mut self) -> VecDeque<Waiting> {
        let waiting = std::mem::take(&mut self.waiting);
        for (write, _) in &waiting {
            self.tickets.remove(&write.ticket);
        }
        waiting
    }
}

impl Queue {
    fn new(region: Region, depth: usize) -> Self {
        Self {
            region,
            depth: depth.clamp(1, DEEPEST),
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            completed: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and takes a ticket.
    fn enter(&self) -> io::Result<u64> {
        let full = |state: &mut State| state.failed.is_none() && state.tickets.len() >= self.depth;
        let mut state = self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        state.result()?;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.tickets.insert(ticket);
        Ok(ticket)
    }

    /// Gives a write to the engine.
    fn push(&self, write: Write, file: Option<Arc<File>>) -> io::Result<()> {
        let mut state = self.lock();
        if state.failed.is_some() {
            drop(state);
            return self.finish(write.ticket, Ok(0));
        }
        state.waiting.push_back((write, file));
        self.work.notify_one();
        Ok(())
    }

    /// Writes in the thread of the caller.
    fn write_now(&self, write: Write) -> io::Result<()> {
        let length = as_u64(write.buffer.len());
        let result = self.region.disk.write_at(write.position, &write.buffer).map(|()| length);
        drop(write.buffer);
        self.finish(write.ticket, result)
    }

    /// Gives a ticket back. The first error is kept, and returned from then on.
    fn finish(&self, ticket: u64, result: io::Result<u64>) -> io::Result<()> {
        let mut state = self.lock();
        state.tickets.remove(&ticket);
        let dropped = match result {
            Ok(bytes) => {
                self.completed.fetch_add(bytes, Ordering::Relaxed);
                VecDeque::new()
            }
            Err(error) => {
                state.failed.get_or_insert_with(|| Arc::new(error));
                state.give_up()
            }
        };
        let result = state.result();
        drop(state);
        self.room.notify_all();
        drop(dropped);
        result
    }

    fn drain(&self) -> io::Result<()> {
        let state = self.lock();
        let end = state.next_ticket;
        let busy = |state: &mut State| state.tickets.first().is_some_and(|ticket| *ticket < end);
        self.room.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner).result()
    }

    /// Has the engine end when what is under way is done.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = state.give_up();
        drop(state);
        self.work.notify_all();
        drop(dropped);
    }
}

/// One error that many callers get: it reads like the error that was kept.
#[derive(Debug)]
struct Kept(Arc<io::Error>);

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Kept {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
