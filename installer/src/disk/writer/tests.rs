mod faults;
mod files;

use std::sync::{Arc, Mutex};

use super::*;
use crate::disk::{Disk, Faulty, FileDisk, Guarded, Memory, Operation, Recorded, Recording};

/// The whole of a disk.
fn all(disk: Arc<dyn Disk>) -> Region {
    let size = disk.size();
    Region { disk, start: 0, size }
}

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::new(length);
    buffer.fill(byte);
    buffer
}

fn text(error: io::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[test]
fn what_was_written_is_there_after_a_drain() {
    let recording = Arc::new(Recording::memory(1 << 20, 512));
    let region = Region { disk: recording.clone(), start: 8192, size: 8192 };
    let writer = Writer::start(region, 4).unwrap();
    assert_eq!((writer.engine(), writer.completed()), ("threads", 0), "what records is not passed by");
    writer.write(512, filled(1024, 7)).unwrap();
    writer.write(0, Buffer::new(0)).unwrap();
    writer.drain().unwrap();
    assert_eq!(
        (recording.take(), writer.completed()),
        (vec![Recorded::Write { offset: 8704, bytes: vec![7; 1024] }], 1024)
    );
    writer.write_zeroes(512, 512).unwrap();
    assert_eq!(
        (recording.take(), writer.completed()),
        (vec![Recorded::Write { offset: 8704, bytes: vec![0; 512] }], 1536)
    );
    writer.drain().unwrap();
    assert_eq!(recording.take(), [], "who writes flushes");
}

#[test]
fn a_range_outside_of_the_region_ends_it_all() {
    let recording = Arc::new(Recording::memory(1 << 20, 512));
    let region = Region { disk: recording.clone(), start: 8192, size: 8192 };
    let writer = Writer::start(region, 4).unwrap();
    let expected = "writing bytes 15872 to 16896 of memory: the range is outside of bytes 8192 to 16384";
    assert_eq!(text(writer.write(7680, filled(1024, 7)).unwrap_err()), expected);
    assert_eq!(text(writer.write(0, filled(512, 7)).unwrap_err()), expected);
    assert_eq!(text(writer.write_zeroes(0, 512).unwrap_err()), expected);
    assert_eq!(text(writer.drain().unwrap_err()), expected);
    assert_eq!(recording.take(), []);
}

#[test]
fn a_queue_as_deep_as_asked_is_worked_on_at_once_and_no_deeper() {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    const DEPTH: usize = 5;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counter, highest, together) = (Arc::clone(&now), Arc::clone(&most), Barrier::new(DEPTH));
    let judge = move |_| {
        highest.fetch_max(counter.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Goes on only when so many writes are here.
        together.wait();
        counter.fetch_sub(1, Ordering::SeqCst);
        together.wait();
        None
    };
    let writer = Writer::start(all(Arc::new(Faulty::new(Arc::new(Memory::new(1 << 20, 512)), judge))), DEPTH).unwrap();
    for index in 0..20 {
        writer.write(index * 512, filled(512, 1)).unwrap();
        assert!(writer.queue.lock().tickets.len() <= DEPTH);
    }
    writer.drain().unwrap();
    assert_eq!((most.load(Ordering::SeqCst), now.load(Ordering::SeqCst)), (DEPTH, 0));
}

#[test]
fn buffers_come_back_to_their_pool_whatever_becomes_of_the_write() {
    let pool = crate::disk::BufferPool::new(2, 4096);
    let memory = Arc::new(Memory::new(1 << 20, 512));
    let judge = |operation| (operation == Operation::Write(100 * 4096, 4096)).then(|| io::Error::other("worn out"));
    let writer = Writer::start(all(Arc::new(Faulty::new(memory, judge))), 8).unwrap();
    // Both are allocated from the start.
    drop([pool.take(), pool.take()]);
    // Hangs if one does not come back.
    for index in 0..250 {
        let _ = writer.write(index * 4096, pool.take());
    }
    assert_eq!(text(writer.drain().unwrap_err()), "writing bytes 409600 to 413696 of memory: worn out");
    assert_eq!(format!("{pool:?}"), "BufferPool { shelf: Shelf { capacity: 4096, idle: 2, unmade: 0 } }");
}

#[test]
fn a_drain_waits_for_nothing_that_comes_after_it() {
    use std::sync::mpsc;
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let judge = move |operation| {
        if operation == Operation::Write(0, 512) {
            held.lock().unwrap().recv().unwrap();
        }
        None
    };
    let writer = Writer::start(all(Arc::new(Faulty::new(Arc::new(Memory::new(1 << 20, 512)), judge))), 4).unwrap();
    writer.write(512, filled(512, 1)).unwrap();
    let before = writer.queue.lock().next_ticket;
    writer.write(0, filled(512, 1)).unwrap();
    // What `drain` would do if it had been called before the write that is held.
    writer.queue.drain_before(before).unwrap();
    assert_eq!(writer.queue.lock().tickets.iter().copied().collect::<Vec<_>>(), [before]);
    release.send(()).unwrap();
    writer.drain().unwrap();
}
