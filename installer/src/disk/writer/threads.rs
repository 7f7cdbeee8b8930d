//! The engine for every disk: as many threads as requests may be under way.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread;

use super::queue::{Queue, State, Write};
use super::{Engine, Writer};

/// More threads than this are not started, whatever depth is asked for.
pub(super) const MOST: usize = 64;

/// Bytes of a thread's stack: a system call needs little.
const STACK: usize = 128 << 10;

pub(super) fn start(queue: Queue) -> io::Result<Writer> {
    let depth = queue.depth;
    // Made first: its drop ends the threads if one of them cannot be started.
    let mut writer = Writer { queue: Arc::new(queue), engine: Engine::Threads, threads: Vec::with_capacity(depth) };
    for _ in 0..depth {
        let queue = Arc::clone(&writer.queue);
        let thread = thread::Builder::new().name("disk writer".to_owned()).stack_size(STACK);
        writer.threads.push(thread.spawn(move || work(&queue))?);
    }
    Ok(writer)
}

fn work(queue: &Queue) {
    while let Some(write) = next(queue) {
        // The error is kept in the queue, for those who wait for it.
        let _ = queue.write_now(write);
    }
}

/// The next write; `None` when the queue is closed.
fn next(queue: &Queue) -> Option<Write> {
    let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
    let mut state = queue.work.wait_while(queue.lock(), idle).unwrap_or_else(PoisonError::into_inner);
    state.waiting.pop_front().map(|(write, _)| write)
}
