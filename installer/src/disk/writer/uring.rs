//! The engine for a real disk: one thread that owns an io_uring and writes to the direct descriptor.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread;

use super::{Engine, Queue, Region, Write, Writer};
use crate::disk::direct::{forget, refuses};
use crate::disk::{WRITING, as_u64, at};
use crate::sys::{RingWrite, WriteRing};

/// A ring, if the kernel has io_uring and lets this process use it (`ENOSYS`; `EPERM` where `kernel.io_uring_disabled`
/// or a seccomp filter says so) and the disk can be written past its `write_at`.
pub(super) fn ring_for(region: &Region, depth: usize) -> Option<WriteRing<u64>> {
    region.disk.direct_file(region.start, 0)?;
    WriteRing::new(depth).ok()
}

pub(super) fn start(queue: Queue, ring: WriteRing<u64>) -> io::Result<Writer> {
    let (queue, engine) = (Arc::new(queue), Engine::Ring(ring.waker()));
    let mut writer = Writer { queue: Arc::clone(&queue), engine, threads: Vec::new() };
    let thread = thread::Builder::new().name("disk writer".to_owned());
    writer.threads.push(thread.spawn(move || work(&queue, ring))?);
    Ok(writer)
}

fn work(queue: &Queue, mut ring: WriteRing<u64>) {
    loop {
        let mut state = queue.lock();
        let (waiting, closed) = (std::mem::take(&mut state.waiting), state.closed);
        drop(state);
        for (write, file) in waiting {
            begin(queue, &mut ring, write, file);
        }
        if closed && ring.under_way() == 0 {
            return;
        }
        match ring.wait() {
            Ok(done) => done.into_iter().for_each(|(write, result)| settle(queue, &mut ring, write, result)),
            Err(error) => return give_up(queue, error),
        }
    }
}

fn begin(queue: &Queue, ring: &mut WriteRing<u64>, write: Write, file: Option<Arc<File>>) {
    let Some(file) = file else {
        let _ = queue.write_now(write);
        return;
    };
    let Write { ticket, position, buffer } = write;
    submit(queue, ring, RingWrite { file, position, buffer, done: 0, tag: ticket });
}

/// The ring has room for as many writes as there are tickets; if it did not, the write would be made right here.
fn submit(queue: &Queue, ring: &mut WriteRing<u64>, write: RingWrite<u64>) {
    if let Err(write) = ring.submit(write) {
        write_now(queue, write);
    }
}

/// By `write_at`, whole. Errors are kept in the queue.
fn write_now(queue: &Queue, write: RingWrite<u64>) {
    let _ = queue.write_now(Write { ticket: write.tag, position: write.position, buffer: write.buffer });
}

/// Ends a write, or has the rest of it written.
fn settle(queue: &Queue, ring: &mut WriteRing<u64>, mut write: RingWrite<u64>, result: io::Result<usize>) {
    let length = write.buffer.len();
    let error = match result {
        Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
        Ok(bytes) => {
            write.done = write.done.saturating_add(bytes);
            if write.done < length {
                return submit(queue, ring, write);
            }
            forget(&write.file, write.position, as_u64(length));
            let ticket = write.tag;
            drop(write);
            let _ = queue.finish(ticket, Ok(as_u64(length)));
            return;
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
            return submit(queue, ring, write);
        }
        // `write_at` finds out for itself and goes through the page cache.
        Err(error) if refuses(&error) => return write_now(queue, write),
        Err(error) => error,
    };
    let RingWrite { position, tag, buffer, .. } = write;
    drop(buffer);
    let _ = queue.finish(tag, Err(at(WRITING, queue.region.disk.as_ref(), position, as_u64(length), error)));
}

/// The ring itself failed, so that nobody knows what became of the writes under way: they all failed.
fn give_up(queue: &Queue, error: io::Error) {
    let region = &queue.region;
    let error = at(WRITING, region.disk.as_ref(), region.start, region.size, error);
    let mut state = queue.lock();
    state.failed.get_or_insert_with(|| Arc::new(error));
    let dropped = state.give_up();
    state.tickets.clear();
    drop(state);
    queue.room.notify_all();
    drop(dropped);
}
