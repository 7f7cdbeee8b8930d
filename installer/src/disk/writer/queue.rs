//! What the callers of a [`Writer`](super::Writer) and its engine share: tickets, what waits, the first error.

use std::collections::{BTreeSet, VecDeque};
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::DEEPEST;
use crate::disk::{Buffer, Region, as_u64};

/// A write with a place in the queue.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) ticket: u64,
    /// Bytes from the disk's start.
    pub(super) position: u64,
    pub(super) buffer: Buffer,
}

/// A write that no engine has taken yet, and the file that an io_uring writes it to.
pub(super) type Waiting = (Write, Option<Arc<File>>);

/// What callers and engine share.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) region: Region,
    pub(super) depth: usize,
    state: Mutex<State>,
    /// Something waits, or the queue is closed.
    pub(super) work: Condvar,
    /// A ticket came back.
    room: Condvar,
    pub(super) completed: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) waiting: VecDeque<Waiting>,
    /// Of writes that wait or are under way.
    pub(super) tickets: BTreeSet<u64>,
    pub(super) next_ticket: u64,
    failed: Option<Arc<io::Error>>,
    pub(super) closed: bool,
}

impl State {
    fn result(&self) -> io::Result<()> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(io::Error::new(error.kind(), Kept(Arc::clone(error)))))
    }

    /// Drops what waits, under the lock: whoever sees that a ticket is back may count on the buffer being back too.
    fn give_up(&mut self) {
        for (write, file) in self.waiting.drain(..) {
            drop((write.buffer, file));
            self.tickets.remove(&write.ticket);
        }
    }
}

impl Queue {
    pub(super) fn new(region: Region, depth: usize) -> Self {
        Self {
            region,
            depth: depth.clamp(1, DEEPEST),
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            completed: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and takes a ticket.
    pub(super) fn enter(&self) -> io::Result<u64> {
        let full = |state: &mut State| state.failed.is_none() && state.tickets.len() >= self.depth;
        let mut state = self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        state.result()?;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.tickets.insert(ticket);
        Ok(ticket)
    }

    /// Gives a write to the engine.
    pub(super) fn push(&self, write: Write, file: Option<Arc<File>>) -> io::Result<()> {
        let mut state = self.lock();
        if state.failed.is_some() {
            drop(state);
            drop(write.buffer);
            return self.finish(write.ticket, Ok(0));
        }
        state.waiting.push_back((write, file));
        self.work.notify_one();
        Ok(())
    }

    /// Writes in the thread of the caller.
    pub(super) fn write_now(&self, write: Write) -> io::Result<()> {
        let length = as_u64(write.buffer.len());
        let result = self.region.disk.write_at(write.position, &write.buffer).map(|()| length);
        drop(write.buffer);
        self.finish(write.ticket, result)
    }

    /// Gives a ticket back. The first error is kept, and returned from then on.
    pub(super) fn finish(&self, ticket: u64, result: io::Result<u64>) -> io::Result<()> {
        let mut state = self.lock();
        state.tickets.remove(&ticket);
        match result {
            Ok(bytes) => {
                self.completed.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) => {
                state.failed.get_or_insert_with(|| Arc::new(error));
                state.give_up();
            }
        }
        let result = state.result();
        drop(state);
        self.room.notify_all();
        result
    }

    pub(super) fn drain(&self) -> io::Result<()> {
        let end = self.lock().next_ticket;
        self.drain_before(end)
    }

    /// Waits for the tickets before `end`.
    pub(super) fn drain_before(&self, end: u64) -> io::Result<()> {
        let busy = |state: &mut State| state.tickets.first().is_some_and(|ticket| *ticket < end);
        self.room.wait_while(self.lock(), busy).unwrap_or_else(PoisonError::into_inner).result()
    }

    /// Ends it all when the engine itself failed and nobody knows what became of the writes under way.
    pub(super) fn break_down(&self, error: io::Error) {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| Arc::new(error));
        state.give_up();
        state.tickets.clear();
        drop(state);
        self.room.notify_all();
    }

    /// Has the engine end when what is under way is done.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.give_up();
        drop(state);
        self.work.notify_all();
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
