//! A server without ranges: the whole payload, once, from its start; frames are found by their own headers. They have no
//! share of the budget: after a cut all comes again anyway.

use anyhow::Result;
use bytes::BytesMut;
use metalstrap_release::payload::{Frame, Next, next_frame};
use metalstrap_release::verity::BLOCK;
use tokio::sync::mpsc;
use zstd::zstd_safe::get_frame_content_size;

use super::budget::Share;
use super::connection::{Batch, Cut, Fetched, Gathering, Sender, receive};
use super::round::Round;
use crate::fetch::Piece;

/// Fetches the payload as one stream and hands on the frames that hold something missing.
///
/// # Errors
/// The mirrors'; [`crate::failure::Code::Corrupt`] where the stream is no payload.
pub(super) async fn fetch(round: &Round, batches: &mpsc::Sender<Batch>) -> Result<()> {
    let frames = &round.goal.frames;
    let apart = frames.is_careful();
    let cutter = Cutter {
        round,
        apart,
        part: BytesMut::new(),
        looked_at: 0,
        from: None,
        offset: 0,
        content_offset: 0,
        gathering: Gathering::new(batches),
    };
    // Where a frame begins depends on all before it: another mirror begins at the stream's start.
    let cuts: Option<&[u64]> = if apart { Some(&[]) } else { None };
    receive(round, &frames.path(), 0..frames.payload().size, cuts, cutter).await
}

struct Cutter<'a> {
    round: &'a Round,
    /// The whole stream comes from one mirror.
    apart: bool,
    /// What came of the frame under way.
    part: BytesMut,
    /// Its length when it was last looked at: not again before it has grown by a quarter.
    looked_at: usize,
    /// Who has sent the stream so far.
    from: Option<Sender>,
    /// Where it begins, in the payload and in the content.
    offset: u64,
    content_offset: u64,
    gathering: Gathering<'a>,
}

impl Cutter<'_> {
    /// The frame that begins at the current place. A size that cannot be told is 0, which is refused when it is decoded, as
    /// is every other one that is not whole blocks.
    fn frame(&self, bytes: &[u8]) -> Frame {
        let content_size = get_frame_content_size(bytes).ok().flatten().unwrap_or(0);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Frame { offset: self.offset, size, content_offset: self.content_offset, content_size }
    }

    /// Begins again: another mirror sends the stream from its start.
    async fn restart(&mut self) {
        self.gathering.hand_over().await;
        self.part.clear();
        (self.looked_at, self.offset, self.content_offset, self.from) = (0, 0, 0, None);
    }

    /// Whether a frame is worth decoding.
    fn is_wanted(&self, frame: &Frame) -> bool {
        let first = frame.content_offset / BLOCK;
        let blocks = first..first.saturating_add(frame.content_size / BLOCK);
        // What cannot be a frame of this payload goes on to be refused.
        !is_whole(frame) || self.round.have.missing(blocks).next().is_some()
    }

    /// Hands on what is no frame of this payload: whoever decodes it says what is wrong, and whose fault it is.
    async fn refuse(&mut self, from: Sender) {
        let bytes = self.part.split().freeze();
        let frame = Frame { content_size: 0, ..self.frame(&bytes) };
        self.gathering.add(Fetched { frame, bytes, from, share: Share::default() }).await;
    }
}

/// Whether a frame's content is whole blocks, as that of every frame of a payload is.
fn is_whole(frame: &Frame) -> bool {
    frame.content_size != 0 && frame.content_size.is_multiple_of(BLOCK)
}

impl<'a> Cut<'a> for Cutter<'a> {
    async fn take(&mut self, piece: Piece) -> Result<bool> {
        if self.apart && self.from.is_some_and(|sender| sender != Sender::One(piece.from)) {
            self.restart().await;
        }
        self.part.extend_from_slice(&piece.bytes);
        // Where a frame begins depends on all that came before, so all who have sent something answer for it.
        let sender = self.from.map_or(Sender::One(piece.from), |sender| sender.and(piece.from));
        self.from = Some(sender);
        loop {
            // Headers of blocks are few: a frame is looked through at most some dozen times. With the stream's end it grows no
            // more.
            let end = self.offset.saturating_add(u64::try_from(self.part.len())?);
            let grows = end < self.round.goal.frames.payload().size;
            if grows && self.part.len() < self.looked_at.saturating_add(self.looked_at / 4) {
                break;
            }
            let length = match next_frame(&self.part, self.offset) {
                Ok(Next::Frame(length)) => length,
                Ok(Next::Table) if self.content_offset >= self.round.goal.frames.payload().content_size => {
                    return Ok(false);
                }
                Ok(Next::More) => {
                    self.looked_at = self.part.len();
                    break;
                }
                // Also a table before all of the content has come.
                Ok(Next::Table) | Err(_) => {
                    self.refuse(sender).await;
                    return Ok(false);
                }
            };
            let bytes = self.part.split_to(length).freeze();
            let frame = self.frame(&bytes);
            self.offset = self.offset.saturating_add(frame.size);
            self.content_offset = self.content_offset.saturating_add(frame.content_size);
            self.looked_at = 0;
            let goes_on = if self.is_wanted(&frame) {
                let fetched = Fetched { frame, bytes, from: sender, share: Share::default() };
                self.gathering.add(fetched).await && is_whole(&frame)
            } else {
                self.gathering.hand_over().await
            };
            if !goes_on
                || self.round.have.is_full()
                || self.content_offset >= self.round.goal.blocks.end.saturating_mul(BLOCK)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn gathering(&mut self) -> &mut Gathering<'a> {
        &mut self.gathering
    }
}
