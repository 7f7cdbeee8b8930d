//! One connection: ranges of frames, cut into batches for the threads that decode.

use std::ops::Range;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use metalstrap_release::payload::Frame;
use metalstrap_release::verity::BLOCK;
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::budget::Share;
use super::frames::QUEUE;
use super::round::Round;
use super::sweep::PIECE;
use crate::fetch::{MirrorId, NoRanges, Piece};
use crate::http::TooSlow;

/// Frames in a row, with their bytes.
pub(super) type Batch = Vec<Fetched>;

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Fetched {
    pub frame: Frame,
    pub bytes: Bytes,
    pub from: Sender,
    /// What it has of the budget.
    pub share: Share,
}

/// Who sent a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    One(MirrorId),
    /// One mirror the beginning, another the rest.
    Several,
}

impl Sender {
    /// With a further piece.
    pub fn and(self, other: MirrorId) -> Self {
        if self == Self::One(other) { self } else { Self::Several }
    }
}

/// Fetches one range after the other until nothing is left to be taken, and hands the frames on. A server may serve fewer
/// connections than it is asked for: one that cannot go on leaves its frames to the others. On a link that is too slow for all
/// of them one is left in the end.
///
/// # Errors
/// The mirrors', when no connection can go on.
pub(super) async fn serve(round: &Round, batches: &mpsc::Sender<Batch>) -> Result<()> {
    let frames = &round.goal.frames;
    let table = frames.table(&round.goal.progress).await?.frames();
    let frame = |number: u64| usize::try_from(number).ok().and_then(|number| table.get(number));
    round.begin();
    while let Some(span) = round.take(|number| frame(number).map_or(0, |frame| frame.size)).await {
        let wanted = usize::try_from(span.start)?..usize::try_from(span.end)?;
        let wanted = table.get(wanted).context("a frame behind the end of the seek table")?;
        let given_up = round.given_up();
        match fetch(round, wanted, batches).await {
            Ok(()) => round.done(),
            Err(error) if error.is::<NoRanges>() => return Err(error),
            Err(error) => {
                let rest = span.filter(|number| frame(*number).is_some_and(|frame| is_missing(round, frame)));
                let rest = rest.map(|number| number..number.saturating_add(1)).collect();
                // Its share of the link was too small beside the others: now it has all of it.
                if error.is::<TooSlow>() && round.is_left_alone(given_up) {
                    log::warn!("the last connection goes on alone: {error:#}");
                    round.put_back(rest);
                    continue;
                }
                if !round.give_up(rest) {
                    return Err(error);
                }
                log::warn!("a connection is given up, the others go on: {error:#}");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether something of a frame has not come yet.
fn is_missing(round: &Round, frame: &Frame) -> bool {
    let first = frame.content_offset / BLOCK;
    round.have.missing(first..first.saturating_add(frame.content_size / BLOCK)).next().is_some()
}

async fn fetch(round: &Round, wanted: &[Frame], batches: &mpsc::Sender<Batch>) -> Result<()> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(()) };
    let range = first.offset..last.offset.saturating_add(last.size);
    let path = round.goal.frames.path();
    let cuts: Option<Vec<u64>> =
        round.goal.frames.is_careful().then(|| wanted.iter().map(|frame| frame.offset).collect());
    let share = round.output.budget.take(range.end.saturating_sub(range.start)).await;
    let cutter = Cutter { share, ..Cutter::new(wanted, cuts.is_some(), batches) };
    receive(round, &path, range, cuts.as_deref(), cutter).await
}

/// Fetches a range, with [`cuts`](crate::fetch::Mirrors::fetch_apart) if there are any, and gives what comes to `cutter`.
/// Threads that have all they want, or failed, end it.
pub(super) async fn receive<'a>(
    round: &Round,
    path: &str,
    range: Range<u64>,
    cuts: Option<&[u64]>,
    mut cutter: impl Cut<'a>,
) -> Result<()> {
    let frames = &round.goal.frames;
    let (sink, mut pieces) = mpsc::channel::<Piece>(QUEUE);
    let cut = async {
        loop {
            let piece = match pieces.try_recv() {
                Ok(piece) => Some(piece),
                Err(TryRecvError::Disconnected) => None,
                // What is whole does not wait for what is under way.
                Err(TryRecvError::Empty) => {
                    cutter.gathering().hand_over().await;
                    pieces.recv().await
                }
            };
            let Some(piece) = piece else { break };
            frames.count(piece.bytes.len(), &round.goal.progress);
            if !cutter.take(piece).await? {
                break;
            }
        }
        // Hangs up on who still sends.
        drop(pieces);
        cutter.gathering().hand_over().await;
        Ok(())
    };
    let fetch = match cuts {
        Some(cuts) => frames.mirrors.fetch_apart(path, range, cuts, sink),
        None => frames.mirrors.fetch(path, range, sink),
    };
    let (fetched, cut) = tokio::join!(fetch, cut);
    cut.and(fetched)
}

/// Makes batches of what comes.
pub(super) trait Cut<'a> {
    /// Takes the next piece; false when no more is wanted.
    async fn take(&mut self, piece: Piece) -> Result<bool>;
    /// What is whole and not handed over yet.
    fn gathering(&mut self) -> &mut Gathering<'a>;
}

/// Frames under way to the threads, gathered until they are worth a write.
#[derive(Debug)]
pub(super) struct Gathering<'a> {
    batches: &'a mpsc::Sender<Batch>,
    batch: Batch,
    content: u64,
}

impl<'a> Gathering<'a> {
    pub fn new(batches: &'a mpsc::Sender<Batch>) -> Self {
        Self { batches, batch: Vec::new(), content: 0 }
    }

    /// Adds a frame, which lies behind the last one if there is one; false when nobody takes batches any more.
    pub async fn add(&mut self, fetched: Fetched) -> bool {
        let most = PIECE.saturating_mul(BLOCK);
        let size = fetched.frame.content_size;
        if self.content.saturating_add(size) > most && !self.hand_over().await {
            return false;
        }
        self.content = self.content.saturating_add(size);
        self.batch.push(fetched);
        self.content < most || self.hand_over().await
    }

    /// Hands over what is there; false when nobody takes it.
    pub async fn hand_over(&mut self) -> bool {
        self.content = 0;
        let batch = std::mem::take(&mut self.batch);
        batch.is_empty() || self.batches.send(batch).await.is_ok()
    }
}

/// Cuts a range of known frames.
struct Cutter<'a> {
    wanted: std::slice::Iter<'a, Frame>,
    /// The frame under way: what came of it, and from whom.
    part: BytesMut,
    from: Option<Sender>,
    /// Each frame comes from one mirror.
    apart: bool,
    /// What the frames that have not come yet have of the budget.
    share: Share,
    gathering: Gathering<'a>,
}

impl<'a> Cutter<'a> {
    fn new(wanted: &'a [Frame], apart: bool, batches: &'a mpsc::Sender<Batch>) -> Self {
        let (part, gathering) = (BytesMut::new(), Gathering::new(batches));
        Self { wanted: wanted.iter(), part, from: None, apart, share: Share::default(), gathering }
    }
}

impl<'a> Cut<'a> for Cutter<'a> {
    async fn take(&mut self, piece: Piece) -> Result<bool> {
        let Piece { mut bytes, from } = piece;
        if self.apart && self.from.is_some_and(|sender| sender != Sender::One(from)) {
            // Another mirror, which has begun where the frame does.
            self.part.clear();
            self.from = None;
        }
        while let Some(frame) = self.wanted.as_slice().first().filter(|_| !bytes.is_empty()) {
            let size = usize::try_from(frame.size)?;
            let sender = self.from.map_or(Sender::One(from), |sender| sender.and(from));
            let missing = size.saturating_sub(self.part.len());
            if bytes.len() < missing {
                // Room for the whole frame at once.
                self.part.reserve(missing);
                self.part.extend_from_slice(&bytes);
                self.from = Some(sender);
                return Ok(true);
            }
            let rest = bytes.split_to(missing);
            let whole = if self.part.is_empty() {
                rest
            } else {
                self.part.extend_from_slice(&rest);
                self.part.split().freeze()
            };
            self.from = None;
            let fetched = Fetched { frame: *frame, bytes: whole, from: sender, share: self.share.split(frame.size) };
            self.wanted.next();
            if !self.gathering.add(fetched).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn gathering(&mut self) -> &mut Gathering<'a> {
        &mut self.gathering
    }
}
