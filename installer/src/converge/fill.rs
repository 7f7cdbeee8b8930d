//! Bringing a stretch of blocks to its place: what is right stays, zeroes are made, what is elsewhere on the disk is copied,
//! and the rest is fetched.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::seek_table::MAX_FRAME_CONTENT;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE};

use super::Tally;
use super::blocks::BlockSet;
use super::frames::Frames;
use super::goal::Goal;
use super::index::Index;
use super::needed::Needed;
use super::output::Output;
use super::repeats::Repeats;
use super::round::Round;
use super::seed::{self, Seed};
use super::{scan, streamed};
use crate::disk::blocking;
use crate::failure::{Code, WithCode as _, coded};
use crate::fetch::NoRanges;

/// Blocks that are made zeroes at once (64 MiB): a drive may be slow at it, and what shows no progress counts as hung.
const ZEROES: u64 = 1 << 14;
/// Rounds of fetching at most: each one after the first is for what some mirror had sent wrong.
const ROUNDS: usize = 64;

/// Makes the blocks of `goal` what they must be. `fine` is the same content in smaller frames, where there is such a
/// payload. Adds to `proven` what the device itself has returned right, before or since. All is written when it returns, and
/// flushed as far as it was fetched: what is fetched next has all of the budget of what a cut may cost.
///
/// # Errors
/// The disk's, the mirrors', and [`Code::Corrupt`].
pub(super) async fn fill(
    goal: &Goal,
    fine: Option<&Arc<Frames>>,
    seeds: &[Seed],
    proven: &Arc<BlockSet>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for part in goal.windows() {
        tally += fill_window(&part, fine, seeds, proven).await?;
    }
    Ok(tally)
}

async fn fill_window(goal: &Goal, fine: Option<&Arc<Frames>>, seeds: &[Seed], proven: &Arc<BlockSet>) -> Result<Tally> {
    let payloads = || [Some(&goal.frames), fine].into_iter().flatten();
    let fetched_before: u64 = payloads().map(|frames| frames.fetched_bytes()).sum();
    let (task, seeds, proven) = (goal.clone(), seeds.to_vec(), Arc::clone(proven));
    let local = blocking(move || Local::find(&task, &seeds, &proven)).await?;
    let Local { have, repeats, output, mut tally } = local;
    if let Some(output) = output {
        let copies = fetch(goal, fine, &have, repeats, &output).await?;
        let done = goal.blocks.end.saturating_sub(goal.blocks.start);
        tally.copied += copies;
        tally.fetched = done.saturating_sub(tally.kept + tally.zero + tally.copied);
        blocking(move || if tally.fetched > 0 { output.finish() } else { output.drain() }).await?;
    }
    let fetched: u64 = payloads().map(|frames| frames.fetched_bytes()).sum();
    tally.fetched_bytes = fetched.saturating_sub(fetched_before);
    Ok(tally)
}

/// What the disk itself has.
struct Local {
    have: Arc<BlockSet>,
    /// What is missing at several places.
    repeats: Arc<Repeats>,
    /// `None`: nothing was missing.
    output: Option<Arc<Output>>,
    tally: Tally,
}

impl Local {
    fn find(goal: &Goal, seeds: &[Seed], proven: &Arc<BlockSet>) -> Result<Self> {
        let have = Arc::new(BlockSet::new(goal.blocks.clone()));
        if scan::is_promising(goal)? {
            scan::in_place(goal, &have)?;
        }
        let mut tally = Tally { kept: have.len(), ..Tally::default() };
        have.present(have.range()).flatten().for_each(|block| _ = proven.insert(block));
        let mut index = Index::new(&goal.blocks);
        if have.is_full() {
            return Ok(Self { have, repeats: Arc::default(), output: None, tally });
        }
        let output = Arc::new(Output::new(goal, goal.reads_back.then_some(proven))?);
        tally.zero = sort_missing(goal, &have, &mut index, &output)?;
        let before = have.len();
        if tally.kept > 0 {
            seed::copy_kept(goal, &index, proven, &have, &output)?;
        }
        for seed in seeds.iter().take_while(|_| !have.is_full()) {
            seed::copy(seed, goal, &index, &have, &output)?;
        }
        tally.copied = have.len().saturating_sub(before);
        let repeats = index.into_repeats(&have, goal.expected.reader().as_mut());
        let repeats = Arc::new(repeats.code(Code::DiskIo, || "reading the hash tree".to_owned())?);
        Ok(Self { have, repeats, output: Some(output), tally })
    }
}

/// Makes the missing blocks that are zero, and notes where the others are wanted. Gives the number of the former.
fn sort_missing(goal: &Goal, have: &BlockSet, index: &mut Index, output: &Output) -> Result<u64> {
    let zero = Digest::salted(goal.expected.salt(), &[0; BLOCK_SIZE]);
    let mut judge = goal.expected.reader();
    let zeroes = BlockSet::new(goal.blocks.clone());
    for block in have.missing(have.range()).flatten() {
        match judge.digest(block).code(Code::DiskIo, || "reading the hash tree".to_owned())? {
            Some(digest) if digest == zero => _ = zeroes.insert(block),
            Some(digest) => index.add(block, &digest),
            None => {}
        }
    }
    index.sort();
    for run in zeroes.present(zeroes.range()) {
        for piece in parts_of(&run, ZEROES) {
            output.write_zeroes(piece.clone())?;
            goal.progress.zeroes(piece.end.saturating_sub(piece.start).saturating_mul(BLOCK));
            piece.for_each(|block| _ = have.insert(block));
        }
    }
    Ok(zeroes.len())
}

/// `run` in parts of so many blocks.
fn parts_of(run: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let (end, step) = (run.end, usize::try_from(most.max(1)).unwrap_or(usize::MAX));
    run.clone().step_by(step).map(move |start| start..start.saturating_add(most).min(end))
}

/// Fetches what `have` lacks; gives the number of blocks that were fetched once for several places.
async fn fetch(
    goal: &Goal,
    fine: Option<&Arc<Frames>>,
    have: &Arc<BlockSet>,
    repeats: Arc<Repeats>,
    output: &Arc<Output>,
) -> Result<u64> {
    let mirrors = &goal.frames.mirrors;
    let careful = || [Some(&goal.frames), fine].into_iter().flatten().filter(|frames| frames.is_careful()).count();
    let mut copies = 0_u64;
    for _ in 0..ROUNDS {
        if have.is_full() {
            return Ok(copies);
        }
        let suspects = mirrors.dropped().len();
        let before = (have.len(), careful());
        let ended = match choose(goal, fine, have, &repeats).await {
            Ok((goal, needed, largest)) => {
                let round = Arc::new(Round::new(&goal, have, needed, largest, output)?);
                let ended = round.by_ranges().await;
                copies = copies.saturating_add(round.copied.load(Ordering::Relaxed));
                ended
            }
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.is::<NoRanges>() => {
                let round = Round::new(goal, have, Needed::default(), MAX_FRAME_CONTENT, output)?;
                Arc::new(round).run(streamed::fetch).await?;
            }
            ended => ended?,
        }
        // What is missing now was sent wrong, and who sent it is dropped, or cannot be told and is found out now: else
        // nothing will ever change.
        if mirrors.dropped().len() == suspects && (have.len(), careful()) == before && !have.is_full() {
            break;
        }
    }
    if have.is_full() {
        return Ok(copies);
    }
    let (path, lacks) = (goal.frames.path(), have.missing(have.range()).next().map_or(0, |run| run.start));
    Err(coded(Code::Corrupt, format!("{path} from {} does not hold block {lacks}", mirrors.describe(mirrors.first()))))
}

/// Which of the payloads brings what is missing in fewer bytes, what of it is needed, and its largest frame's content.
async fn choose(
    goal: &Goal,
    fine: Option<&Arc<Frames>>,
    have: &Arc<BlockSet>,
    repeats: &Arc<Repeats>,
) -> Result<(Goal, Needed, u64)> {
    let total = goal.blocks.end.saturating_sub(goal.blocks.start);
    let missing = total.saturating_sub(have.len());
    // Where nearly all is missing large frames bring it in the fewest bytes.
    let fine = fine.filter(|_| missing < total / 10 * 9);
    let mut best = None;
    for frames in [Some(&goal.frames), fine].into_iter().flatten() {
        let table = match frames.table(&goal.progress).await {
            Ok(table) => table,
            // The usual frames bring all that the small ones would.
            Err(error) if best.is_some() && !error.is::<NoRanges>() => {
                log::warn!("going on without the small frames: {error:#}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let largest = table.frames().iter().map(|frame| frame.content_size).max().unwrap_or(0);
        let (task, have, repeats, frames) = (goal.clone(), Arc::clone(have), Arc::clone(repeats), Arc::clone(frames));
        let needed = blocking(move || {
            let table = frames.known_table().context("a seek table that was fetched")?;
            let needed = Needed::new(table, &have, &repeats);
            Ok((Goal { frames, ..task }, needed, largest))
        })
        .await?;
        if best.as_ref().is_none_or(|(_, least, _): &(Goal, Needed, u64)| needed.1.bytes < least.bytes) {
            best = Some(needed);
        }
    }
    match best {
        Some(best) => Ok(best),
        None => bail!("no payload to fetch from"),
    }
}
