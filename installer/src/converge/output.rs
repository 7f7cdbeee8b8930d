//! Where verified blocks go: the write queue, and reading back behind it while the network is waited for.
//!
//! # Design
//! A block is read back only once it is on stable storage, so there are two sets: blocks whose write was queued, and
//! those of them that a flush has covered since. A thread that has nothing to decode takes a piece of the latter. What
//! is left when all is written is left to the step that reads back ([`super::read_back()`]). It is done only where
//! reads go past the kernel's cache, which may not be dropped as a whole while much is being written.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE};

use super::blocks::BlockSet;
use super::expected::{Judge, check_each};
use super::goal::Goal;
use super::read_back::lost;
use super::sweep::PIECE;
use crate::disk::{Buffer, Region, Writer};
use crate::failure::{Code, WithCode as _};

/// After so many fetched bytes the disk is flushed.
const FLUSH_EACH: u64 = 24 << 20;
/// So many fetched bytes may not be on stable storage while a flush is under way; then threads wait for its end. A power cut
/// costs no more than these, a batch for each thread and the few that wait for one, and a frame for each connection.
const MOST_UNFLUSHED: u64 = 32 << 20;

/// The place of a stretch of blocks, while it is written.
#[derive(Debug)]
pub(super) struct Output {
    writer: Writer,
    region: Region,
    salt: Vec<u8>,
    flushing: Mutex<Flushing>,
    /// A flush has ended.
    flushed: Condvar,
    behind: Option<Behind>,
}

/// How far flushing is behind writing.
#[derive(Debug, Default)]
struct Flushing {
    /// Fetched bytes whose write was queued, and that no flush which has ended covers.
    unflushed: u64,
    /// Whether a thread is at it.
    under_way: bool,
    /// Threads that wait for its end.
    waiting: usize,
}

/// What may be read back.
#[derive(Debug)]
struct Behind {
    /// Blocks whose write was queued since the last flush.
    queued: BlockSet,
    /// Blocks that are on stable storage, and that nobody has begun to read back.
    stable: BlockSet,
    /// Where the search for the next of them begins.
    next: Mutex<u64>,
    /// What the device has returned right.
    proven: Arc<BlockSet>,
}

impl Output {
    /// The place of `goal`. With `proven`, which blocks are added to when the device has returned them right, it is read
    /// back behind the writing, if the disk permits.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(goal: &Goal, proven: Option<&Arc<BlockSet>>) -> Result<Self> {
        let region = goal.region.clone();
        let proven = proven.filter(|_| region.disk.direct_file(region.start, 0).is_some());
        let behind = proven.map(|proven| Behind {
            queued: BlockSet::new(goal.blocks.clone()),
            stable: BlockSet::new(goal.blocks.clone()),
            next: Mutex::new(goal.blocks.start),
            proven: Arc::clone(proven),
        });
        let (writer, salt) = (goal.writer()?, goal.expected.salt().to_vec());
        Ok(Self { writer, region, salt, flushing: Mutex::default(), flushed: Condvar::new(), behind })
    }

    /// Queues a write of verified blocks from block `first` on.
    ///
    /// # Errors
    /// The disk's, of this or an earlier write.
    pub fn write(&self, first: u64, buffer: Buffer) -> Result<()> {
        let end = first.saturating_add(u64::try_from(buffer.len() / BLOCK_SIZE)?);
        let queued = self.writer.write(first.saturating_mul(BLOCK), buffer);
        queued.code(Code::DiskIo, || "writing verified blocks".to_owned())?;
        self.note(first..end);
        Ok(())
    }

    /// Makes `run` zeroes.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_zeroes(&self, run: Range<u64>) -> Result<()> {
        let length = run.end.saturating_sub(run.start).saturating_mul(BLOCK);
        let written = self.writer.write_zeroes(run.start.saturating_mul(BLOCK), length);
        written.code(Code::DiskIo, || "writing zeroes".to_owned())?;
        self.note(run);
        Ok(())
    }

    fn note(&self, run: Range<u64>) {
        if let Some(behind) = &self.behind {
            run.for_each(|block| _ = behind.queued.insert(block));
        }
    }

    fn flushing(&self) -> MutexGuard<'_, Flushing> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Threads that wait because too much is not on stable storage.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.flushing().waiting
    }

    /// Flushes the disk when much was fetched since the last time, `fetched` bytes of it just now; while another thread is at
    /// it, waits if that is too much.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush_now_and_then(&self, fetched: u64) -> Result<()> {
        let mut state = self.flushing();
        state.unflushed = state.unflushed.saturating_add(fetched);
        while state.under_way && state.unflushed >= MOST_UNFLUSHED {
            state.waiting += 1;
            state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.under_way || state.unflushed < FLUSH_EACH {
            return Ok(());
        }
        state.under_way = true;
        let covered = state.unflushed;
        drop(state);
        let flushed = self.flush_queued();
        let mut state = self.flushing();
        state.under_way = false;
        if flushed.is_ok() {
            state.unflushed = state.unflushed.saturating_sub(covered);
        }
        drop(state);
        self.flushed.notify_all();
        flushed
    }

    /// Brings all whose write was queued so far to stable storage.
    fn flush_queued(&self) -> Result<()> {
        let Some(behind) = &self.behind else {
            self.drain()?;
            return self.flush();
        };
        // Whose write was queued by now is written when the queue has drained.
        let covered = BlockSet::new(behind.queued.range());
        for block in behind.queued.present(behind.queued.range()).flatten() {
            behind.queued.remove(block);
            covered.insert(block);
        }
        self.drain()?;
        self.flush()?;
        covered.present(covered.range()).flatten().for_each(|block| _ = behind.stable.insert(block));
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.region.disk.flush().code(Code::DiskIo, || "flushing verified blocks".to_owned())
    }

    /// Returns when all that was queued before is written, not flushed.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn drain(&self) -> Result<()> {
        self.writer.drain().code(Code::DiskIo, || "writing verified blocks".to_owned())
    }

    /// Reads one piece back; false when there is none.
    ///
    /// # Errors
    /// [`Code::DiskIo`]: the drive returns something else than what it was given, or fails.
    pub fn read_a_piece_back(&self, judge: &mut dyn Judge) -> Result<bool> {
        let Some(behind) = &self.behind else { return Ok(false) };
        let Some(piece) = behind.take() else { return Ok(false) };
        let length = piece.end.saturating_sub(piece.start).saturating_mul(BLOCK);
        let mut buffer = Buffer::new(usize::try_from(length)?);
        let read = self.region.read_at(piece.start.saturating_mul(BLOCK), &mut buffer);
        read.code(Code::DiskIo, || "reading back".to_owned())?;
        let blocks = piece.zip(buffer.as_chunks::<BLOCK_SIZE>().0);
        check_each(judge, &self.salt, blocks, |index, checked| {
            checked.or_else(|fault| lost(&self.region, index, fault))?;
            behind.proven.insert(index);
            Ok(())
        })?;
        Ok(true)
    }
}

impl Behind {
    /// Takes the next piece that is worth a read.
    fn take(&self) -> Option<Range<u64>> {
        let Range { start, end } = self.stable.range();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*next).clamp(start, end);
        let run = self.stable.present(from..end).next().or_else(|| self.stable.present(start..from).next())?;
        let piece = run.start..run.end.min(run.start.saturating_add(PIECE));
        piece.clone().for_each(|block| _ = self.stable.remove(block));
        *next = piece.end;
        Some(piece)
    }
}
