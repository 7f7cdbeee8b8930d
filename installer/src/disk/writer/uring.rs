//! The engine for a real disk: one thread that owns an io_uring and writes to the direct descriptor.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread;

use super::queue::{Queue, Write};
use super::{Engine, Region, Writer};
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
        // In the words of `write_all_at`.
        Ok(0) => io::Error::new(io::ErrorKind::WriteZero, "failed to write whole buffer"),
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

/// The ring itself failed.
fn give_up(queue: &Queue, error: io::Error) {
    let region = &queue.region;
    queue.break_down(at(WRITING, region.disk.as_ref(), region.start, region.size, error));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Buffer, Disk as _, FileDisk};

    /// A file of 12288 bytes, a queue for it with one ticket out, its ring, and a write of all of it in ones.
    type Bench = (tempfile::NamedTempFile, Queue, WriteRing<u64>, RingWrite<u64>);

    /// `None`, said on the console, where there is no ring; fails where there has to be one.
    fn bench() -> Option<Bench> {
        let backing = tempfile::NamedTempFile::new().unwrap();
        backing.as_file().set_len(12288).unwrap();
        let disk = Arc::new(FileDisk::open(backing.path(), 512).unwrap());
        let region = Region { disk: disk.clone(), start: 0, size: 12288 };
        let (Some(ring), Some(file)) = (ring_for(&region, 1), disk.direct_file(0, 12288)) else {
            crate::not_run::not_run("this kernel or file system does not have io_uring");
            return None;
        };
        let queue = Queue::new(region, 1);
        let mut buffer = Buffer::new(12288);
        buffer.fill(1);
        let write = RingWrite { file, position: 0, buffer, done: 0, tag: queue.enter().unwrap() };
        Some((backing, queue, ring, write))
    }

    /// Works until nothing is under way, and gives the bytes of the file.
    fn finish((backing, queue, mut ring, _): (tempfile::NamedTempFile, Queue, WriteRing<u64>, ())) -> (Vec<u8>, u64) {
        while ring.under_way() > 0 {
            for (write, result) in ring.wait().unwrap() {
                settle(&queue, &mut ring, write, result);
            }
        }
        queue.drain().unwrap();
        (std::fs::read(backing.path()).unwrap(), queue.completed.into_inner())
    }

    #[test]
    fn the_rest_of_a_short_write_is_written() {
        let Some((backing, queue, mut ring, write)) = bench() else { return };
        settle(&queue, &mut ring, write, Ok(4096));
        assert_eq!((ring.under_way(), queue.lock().tickets.len()), (1, 1));
        let (found, completed) = finish((backing, queue, ring, ()));
        assert!(found[..4096].iter().all(|byte| *byte == 0), "was said to be written");
        assert!(found[4096..].iter().all(|byte| *byte == 1));
        assert_eq!(completed, 12288);
    }

    #[test]
    fn what_was_interrupted_is_tried_again_and_what_is_refused_goes_the_other_way() {
        for (errno, under_way) in [(libc::EINTR, 1), (libc::EAGAIN, 1), (libc::EINVAL, 0)] {
            let Some((backing, queue, mut ring, write)) = bench() else { return };
            settle(&queue, &mut ring, write, Err(io::Error::from_raw_os_error(errno)));
            assert_eq!(ring.under_way(), under_way, "after {errno}");
            let (found, completed) = finish((backing, queue, ring, ()));
            assert!(found.iter().all(|byte| *byte == 1), "after {errno}");
            assert_eq!(completed, 12288);
        }
    }

    #[test]
    fn a_write_of_nothing_and_any_other_error_fail() {
        let zero = "failed to write whole buffer";
        for (result, expected) in
            [(Ok(0), zero), (Err(io::Error::from_raw_os_error(libc::EIO)), "Input/output error (os error 5)")]
        {
            let Some((backing, queue, mut ring, write)) = bench() else { return };
            settle(&queue, &mut ring, write, result);
            let error = format!("{:#}", anyhow::Error::new(queue.drain().unwrap_err()));
            assert_eq!(error, format!("writing bytes 0 to 12288 of {}: {expected}", backing.path().display()));
            assert_eq!((ring.under_way(), queue.lock().tickets.len()), (0, 0));
        }
    }

    #[test]
    fn a_ring_that_fails_fails_every_write_and_keeps_nobody_waiting() {
        let Some((backing, queue, _ring, _write)) = bench() else { return };
        give_up(&queue, io::Error::from_raw_os_error(libc::EBADR));
        let expected = format!(
            "writing bytes 0 to 12288 of {}: Invalid request descriptor (os error 53)",
            backing.path().display()
        );
        assert_eq!(format!("{:#}", anyhow::Error::new(queue.drain().unwrap_err())), expected);
        assert!(queue.enter().is_err());
    }
}
