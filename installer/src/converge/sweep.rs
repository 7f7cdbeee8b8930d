//! Reading much of a region on all processors: piece by piece, each by whichever thread is free.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, Block};

use crate::disk::{Buffer, Region};
use crate::failure::{Code, WithCode as _};

/// Blocks of a piece: 1 MiB, what a drive reads at its full rate.
pub(super) const PIECE: u64 = 256;

/// What blocks that the disk cannot read mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The end.
    Fails,
    /// They are not there: what can be read around them counts.
    Skipped,
}

/// Threads that hash, compress and copy: one a processor, within what memory allows.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(16)
}

/// Cuts runs of blocks into pieces.
pub(super) fn pieces(runs: impl Iterator<Item = Range<u64>>) -> impl Iterator<Item = Range<u64>> {
    runs.flat_map(|run| {
        let step = usize::try_from(PIECE).unwrap_or(usize::MAX);
        run.clone().step_by(step).map(move |start| start..start.saturating_add(PIECE).min(run.end))
    })
}

/// Reads the blocks of `pieces` from `region` and hands each piece to `each`, with the state that `state` made for its
/// thread and the number of the first block. `looked` hears of the bytes that are behind it: of a drive that is dying, block
/// by block, whether it could be read or not. Blocks the thread until all is done; the first error ends it.
///
/// # Errors
/// [`Code::DiskIo`] where a read fails and that is the end; those of `each`.
pub(super) fn sweep<S>(
    region: &Region,
    unreadable: Unreadable,
    pieces: impl Iterator<Item = Range<u64>> + Send,
    state: impl Fn() -> S + Sync,
    looked: impl Fn(u64) + Sync,
    each: impl Fn(&mut S, u64, &mut [Block]) -> Result<()> + Sync,
) -> Result<()> {
    let pieces = Mutex::new(pieces);
    let ended = AtomicBool::new(false);
    let work = || -> Result<()> {
        let mut state = state();
        let mut buffer = Buffer::new(usize::try_from(PIECE * BLOCK)?);
        while !ended.load(Ordering::Relaxed) {
            let Some(piece) = pieces.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
            let length = piece.end.saturating_sub(piece.start).saturating_mul(BLOCK);
            buffer.set_len(usize::try_from(length)?);
            match region.read_at(piece.start.saturating_mul(BLOCK), &mut buffer) {
                Ok(()) => {
                    each(&mut state, piece.start, buffer.as_chunks_mut().0)?;
                    looked(length);
                }
                Err(_) if unreadable == Unreadable::Skipped => {
                    one_by_one(region, piece, &mut buffer, &looked, |index, block| each(&mut state, index, block))?;
                }
                Err(error) => return Err(error).code(Code::DiskIo, || "reading blocks".to_owned()),
            }
        }
        Ok(())
    };
    let work = || work().inspect_err(|_| ended.store(true, Ordering::Relaxed));
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads()).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        results
            .extend(workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a thread died")))));
        results.into_iter().collect()
    })
}

/// Reads a piece block by block, past those that cannot be read.
fn one_by_one(
    region: &Region,
    piece: Range<u64>,
    buffer: &mut Buffer,
    looked: impl Fn(u64),
    mut each: impl FnMut(u64, &mut [Block]) -> Result<()>,
) -> Result<()> {
    buffer.set_len(BLOCK_SIZE);
    for index in piece {
        if region.read_at(index.saturating_mul(BLOCK), buffer).is_ok() {
            each(index, buffer.as_chunks_mut().0)?;
        }
        looked(BLOCK);
    }
    Ok(())
}
