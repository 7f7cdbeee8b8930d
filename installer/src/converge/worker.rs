//! A thread that decodes frames, checks every block and queues the writes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use metalstrap_release::payload::{Frame, FrameDecoder, PayloadError};
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, Block, TreeError};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::budget::Share;
use super::connection::{Batch, Fetched, Sender};
use super::expected::{Fault, Judge, check_each};
use super::round::Round;
use super::seed::write_runs;
use crate::disk::Buffer;
use crate::failure::{Code, WithCode as _};

/// Why a frame is refused.
#[derive(Debug)]
enum Refused {
    Frame(PayloadError),
    Block(TreeError),
}

/// Takes batches until there are no more. Blocks the thread.
///
/// # Errors
/// The disk's; [`Code::Corrupt`] when the last mirror sent something wrong.
pub(super) fn work(round: &Round, batches: &Mutex<mpsc::Receiver<Batch>>) -> Result<()> {
    let expected = round.goal.expected.as_ref();
    let (mut decoder, mut judge) = (FrameDecoder::new(), expected.reader());
    let mut work = || -> Result<()> {
        while let Some(batch) = next(round, batches, judge.as_mut())? {
            take(round, batch, &mut decoder, judge.as_mut())?;
        }
        Ok(())
    };
    work().inspect_err(|_| round.fail())
}

/// The next batch. As long as none waits, what was written is read back.
fn next(round: &Round, batches: &Mutex<mpsc::Receiver<Batch>>, judge: &mut dyn Judge) -> Result<Option<Batch>> {
    loop {
        // Who holds the lock waits for a batch: there is none.
        match batches.try_lock().map(|mut batches| batches.try_recv()) {
            Ok(Ok(batch)) => return Ok(Some(batch)),
            Ok(Err(TryRecvError::Disconnected)) => return Ok(None),
            Ok(Err(TryRecvError::Empty)) | Err(_) => {}
        }
        if !round.output.read_a_piece_back(judge)? {
            return Ok(batches.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv());
        }
    }
}

/// Decodes, checks and writes a batch, up to the first frame that is not right.
fn take(round: &Round, mut batch: Batch, decoder: &mut FrameDecoder, judge: &mut dyn Judge) -> Result<()> {
    let Some(first) = batch.first().map(|fetched| fetched.frame.content_offset) else { return Ok(()) };
    let mut buffer = round.pool.take();
    let (mut length, mut refused) = (0, None);
    buffer.set_len(buffer.capacity());
    for fetched in &batch {
        let size = usize::try_from(fetched.frame.content_size)?;
        let behind = first.checked_add(u64::try_from(length)?);
        ensure!(behind == Some(fetched.frame.content_offset), "a batch with frames that are not in a row");
        let place = buffer.get_mut(length..).and_then(|rest| rest.get_mut(..size));
        if let Some(why) = decode(round, fetched, decoder, judge, place)? {
            refused = Some((fetched, why));
            break;
        }
        length += size;
    }
    buffer.set_len(length);
    write(round, first / BLOCK, buffer)?;
    let refused = refused.map_or(Ok(()), |(fetched, why)| blame(round, fetched, why));
    let (mut bytes, mut share) = (0_u64, Share::default());
    for fetched in &mut batch {
        bytes = bytes.saturating_add(fetched.frame.size);
        share.merge(std::mem::take(&mut fetched.share));
    }
    round.output.flush_now_and_then(bytes, share)?;
    refused
}

/// Decodes a frame and checks the blocks of it that are missing.
fn decode(
    round: &Round,
    fetched: &Fetched,
    decoder: &mut FrameDecoder,
    judge: &mut dyn Judge,
    place: Option<&mut [u8]>,
) -> Result<Option<Refused>> {
    let Frame { offset, content_offset, content_size, .. } = fetched.frame;
    let refuse = |problem: String| Ok(Some(Refused::Frame(PayloadError::Frame { offset, problem })));
    let Some(place) = place else { return refuse(format!("has {content_size} bytes of content, too many")) };
    if let Err(error) = decoder.decode_to(&fetched.frame, &fetched.bytes, place) {
        return Ok(Some(Refused::Frame(error)));
    }
    // Where there is no seek table, the sender says what a frame has: behind other than whole blocks all would be looked at
    // in the wrong place.
    if content_size == 0 || !content_size.is_multiple_of(BLOCK) || !content_offset.is_multiple_of(BLOCK) {
        return refuse(format!("has {content_size} bytes of content, not whole blocks"));
    }
    let first = content_offset / BLOCK;
    let mut refused = None;
    let blocks = (first..).zip(place.as_chunks::<BLOCK_SIZE>().0).filter(|(index, _)| wanted(round, *index));
    check_each(judge, round.goal.expected.salt(), blocks, |_, checked| match checked {
        Ok(()) => Ok(()),
        Err(Fault::Block(error)) => {
            refused.get_or_insert(Refused::Block(error));
            Ok(())
        }
        Err(Fault::Tree(error)) => Err(error).code(Code::DiskIo, || format!("checking {}", round.goal.frames.path())),
    })?;
    Ok(refused)
}

/// Whether a block is to be written to its own place.
fn wanted(round: &Round, index: u64) -> bool {
    round.goal.blocks.contains(&index) && !round.have.contains(index)
}

/// Queues what is wanted of the blocks from `first` on, and their copies. All of them are right.
fn write(round: &Round, first: u64, buffer: Buffer) -> Result<()> {
    let written = |blocks: u64| round.goal.progress.brings(blocks.saturating_mul(BLOCK));
    let blocks = buffer.as_chunks::<BLOCK_SIZE>().0;
    let mut copies = BTreeMap::new();
    for (index, block) in (first..).zip(blocks) {
        copies.extend(round.needed.copies_of(index).filter(|copy| round.have.insert(*copy)).map(|copy| (copy, block)));
    }
    write_runs(copies, &round.output, |run| {
        round.copied.fetch_add(run, Ordering::Relaxed);
        round.goal.progress.copies(run.saturating_mul(BLOCK));
    })?;
    // Another thread may have the same frame, which a connection that gave up has left to it: each block is written by one.
    let own: BTreeMap<u64, &Block> = (first..).zip(blocks).filter(|(index, _)| round.have.insert(*index)).collect();
    if own.len() < blocks.len() {
        return write_runs(own, &round.output, written);
    }
    if own.is_empty() {
        return Ok(());
    }
    let count = u64::try_from(own.len())?;
    round.output.write(first, buffer)?;
    written(count);
    Ok(())
}

/// Drops who sent a wrong frame, if it was one mirror; the frame stays missing and is fetched again.
fn blame(round: &Round, fetched: &Fetched, refused: Refused) -> Result<()> {
    let frames = &round.goal.frames;
    let mirrors = &frames.mirrors;
    let Sender::One(from) = fetched.from else {
        // Nobody can tell which of them lied: it is fetched again, all of it from one of them.
        frames.be_careful();
        return Ok(());
    };
    let origin = frames.origin(from);
    let (error, text) = match refused {
        Refused::Frame(error) => (anyhow::Error::from(error), format!("{origin} is corrupt")),
        Refused::Block(error) => {
            let index = match &error {
                TreeError::Data { index, .. } | TreeError::Tree { index, .. } => *index,
                _ => 0,
            };
            let byte = index.saturating_mul(BLOCK);
            (error.into(), format!("{origin} is corrupt at byte {byte} of its content"))
        }
    };
    if mirrors.drop_liar(from, &format!("{text}: {error:#}")) {
        return Ok(());
    }
    Err(error).code(Code::Corrupt, || text)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::super::blocks::BlockSet;
    use super::super::needed::Needed;
    use super::super::output::Output;
    use super::super::testing::{Repository, bytes, goal_of, on_disk, open_tree, recording};
    use super::*;
    use crate::disk::Recorded;
    use crate::progress::Progress;

    #[test]
    fn what_two_threads_have_is_written_and_counted_once() {
        let content = bytes(1, 256 * BLOCK_SIZE);
        let repository = Repository::new();
        let (payload, tree) = (repository.publish(&content), open_tree(&content));
        let length = content.len() as u64;
        // Often, because the two must be at it at the same moment.
        for _ in 0..64 {
            let ((disk, region), progress) = (recording(length), Progress::default());
            let goal = goal_of(&payload, &repository.mirrors(), &tree, &region, &progress);
            let have = Arc::new(BlockSet::new(goal.blocks.clone()));
            let output = Arc::new(Output::new(&goal, None).unwrap());
            let round = Round::new(&goal, &have, Needed::default(), BLOCK, &output).unwrap();
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let mut buffer = Buffer::new(content.len());
                        buffer.copy_from_slice(&content);
                        start.wait();
                        write(&round, 0, buffer).unwrap();
                    });
                }
            });
            output.drain().unwrap();
            assert_eq!(progress.parts(), [0, 0, 0, length]);
            let written = disk.log().into_iter().map(|what| match what {
                Recorded::Write { bytes, .. } => bytes.len() as u64,
                Recorded::Flush => 0,
            });
            assert_eq!(written.sum::<u64>(), length);
            assert!(on_disk(&region, content.len()) == content);
        }
    }
}
