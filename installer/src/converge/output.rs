//! Where verified blocks go: the write queue, and reading back behind it while the network is waited for.
//!
//! # Design
//! A block is read back only once it is on stable storage, so there are two sets: blocks whose write was queued, and
//! those of them that a flush has covered since. A thread that has nothing to decode takes a piece of the latter. What
//! is left when all is written is left to the step that reads back ([`super::read_back()`]). It is done only where
//! reads go past the kernel's cache, which may not be dropped as a whole while much is being written.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE};

use super::blocks::BlockSet;
use super::budget::{Budget, Share};
use super::expected::{Judge, check_each};
use super::goal::Goal;
use super::read_back::lost;
use super::sweep::PIECE;
use crate::disk::{Buffer, Region, Writer};
use crate::failure::{Code, WithCode as _};

/// The place of a stretch of blocks, while it is written.
#[derive(Debug)]
pub(super) struct Output {
    writer: Writer,
    region: Region,
    salt: Vec<u8>,
    /// What a cut may cost.
    pub budget: Budget,
    flushing: Mutex<Flushing>,
    behind: Option<Behind>,
}

/// How far flushing is behind writing.
#[derive(Debug, Default)]
struct Flushing {
    /// Whose write was queued, and that no flush which has begun covers.
    queued: Queued,
    /// Whether a thread is at it.
    under_way: bool,
}

/// Frames whose write was queued.
#[derive(Debug, Default)]
struct Queued {
    /// Their bytes.
    bytes: u64,
    /// What they have of the budget.
    share: Share,
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
        let proven = proven.filter(|_| is_read_past_the_cache(&region));
        let behind = proven.map(|proven| Behind {
            queued: BlockSet::new(goal.blocks.clone()),
            stable: BlockSet::new(goal.blocks.clone()),
            next: Mutex::new(goal.blocks.start),
            proven: Arc::clone(proven),
        });
        let (writer, salt) = (goal.writer()?, goal.expected.salt().to_vec());
        let budget = Budget::new(goal.at_risk);
        Ok(Self { writer, region, salt, budget, flushing: Mutex::default(), behind })
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

    /// Flushes the disk when much was fetched since the last time: frames of `bytes` bytes just now, which have `share` of the
    /// budget. Returns at once while another thread is at it.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush_now_and_then(&self, bytes: u64, share: Share) -> Result<()> {
        let mut state = self.flushing();
        state.queued.bytes = state.queued.bytes.saturating_add(bytes);
        state.queued.share.merge(share);
        // What the others have queued meanwhile may be due when a flush has ended.
        while !state.under_way && state.queued.bytes >= self.budget.flush_each() {
            state.under_way = true;
            let covered = std::mem::take(&mut state.queued);
            drop(state);
            let flushed = self.flush_queued();
            state = self.flushing();
            state.under_way = false;
            flushed?;
            drop(covered);
        }
        Ok(())
    }

    /// Brings all that was written to stable storage.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(&self) -> Result<()> {
        self.drain()?;
        self.flush()
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

    /// Reads one piece back; false when there is none, or where that would prove nothing.
    ///
    /// # Errors
    /// [`Code::DiskIo`]: the drive returns something else than what it was given, or fails.
    pub fn read_a_piece_back(&self, judge: &mut dyn Judge) -> Result<bool> {
        let Some(behind) = self.behind.as_ref().filter(|_| is_read_past_the_cache(&self.region)) else {
            return Ok(false);
        };
        let Some(piece) = behind.take() else { return Ok(false) };
        let length = piece.end.saturating_sub(piece.start).saturating_mul(BLOCK);
        let mut buffer = Buffer::new(usize::try_from(length)?);
        let read = self.region.read_at(piece.start.saturating_mul(BLOCK), &mut buffer);
        read.code(Code::DiskIo, || "reading back".to_owned())?;
        // It may have been this read that was refused, and then it was the kernel's cache that answered.
        if !is_read_past_the_cache(&self.region) {
            return Ok(false);
        }
        let blocks = piece.zip(buffer.as_chunks::<BLOCK_SIZE>().0);
        check_each(judge, &self.salt, blocks, |index, checked| {
            checked.or_else(|fault| lost(&self.region, index, fault))?;
            behind.proven.insert(index);
            Ok(())
        })?;
        Ok(true)
    }
}

/// Whether what is read comes from the device. Not for good: a file system may take `O_DIRECT` at open(2) and refuse a request.
fn is_read_past_the_cache(region: &Region) -> bool {
    region.disk.direct_file(region.start, 0).is_some()
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
