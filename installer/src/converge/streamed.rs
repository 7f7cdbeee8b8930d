//! A server without ranges: the whole payload, once, from its start; frames are found by their own headers.

use anyhow::Result;
use bytes::BytesMut;
use metalstrap_release::payload::{Frame, Next, next_frame};
use metalstrap_release::verity::BLOCK;
use tokio::sync::mpsc;
use zstd::zstd_safe::get_frame_content_size;

use super::connection::{Batch, Cut, Fetched, Gathering, Sender, receive};
use super::round::Round;
use crate::fetch::Piece;

/// Fetches the payload as one stream and hands on the frames that hold something missing.
///
/// # Errors
/// The mirrors'; [`crate::failure::Code::Corrupt`] where the stream is no payload.
pub(super) async fn fetch(round: &Round, batches: &mpsc::Sender<Batch>) -> Result<()> {
    let frames = &round.goal.frames;
    let cutter = Cutter {
        round,
        part: BytesMut::new(),
        looked_at: 0,
        from: None,
        offset: 0,
        content_offset: 0,
        gathering: Gathering::new(batches),
    };
    receive(round, &frames.path(), 0..frames.payload().size, cutter).await
}

struct Cutter<'a> {
    round: &'a Round,
    /// What came of the frame under way.
    part: BytesMut,
    /// Its length when it was last looked at: not again before it has grown by a quarter.
    looked_at: usize,
    from: Option<Sender>,
    /// Where it begins, in the payload and in the content.
    offset: u64,
    content_offset: u64,
    gathering: Gathering<'a>,
}

impl Cutter<'_> {
    /// The frame that begins at the current place. A size that cannot be told is refused when it is decoded.
    fn frame(&self, bytes: &[u8]) -> Frame {
        let content_size = get_frame_content_size(bytes).ok().flatten().unwrap_or(0);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Frame { offset: self.offset, size, content_offset: self.content_offset, content_size }
    }

    /// Whether a frame is worth decoding.
    fn is_wanted(&self, frame: &Frame) -> bool {
        let first = frame.content_offset / BLOCK;
        let blocks = first..first.saturating_add(frame.content_size / BLOCK);
        // What cannot be a frame of this payload goes on to be refused.
        frame.content_size == 0 || self.round.have.missing(blocks).next().is_some()
    }
}

impl<'a> Cut<'a> for Cutter<'a> {
    async fn take(&mut self, piece: Piece) -> Result<bool> {
        self.part.extend_from_slice(&piece.bytes);
        let mut sender = self.from.map_or(Sender::One(piece.from), |sender| sender.and(piece.from));
        loop {
            // Headers of blocks are few: a frame is looked through at most some dozen times.
            if self.part.len() < self.looked_at.saturating_add(self.looked_at / 4) {
                break;
            }
            let length = match next_frame(&self.part, self.offset) {
                Ok(Next::Frame(length)) => length,
                Ok(Next::Table) => return Ok(false),
                Ok(Next::More) => {
                    self.looked_at = self.part.len();
                    break;
                }
                // Whoever decodes it says what is wrong, and whose fault it is.
                Err(_) => {
                    let bytes = self.part.split().freeze();
                    let frame = Frame { content_size: 0, ..self.frame(&bytes) };
                    self.gathering.add(Fetched { frame, bytes, from: sender }).await;
                    return Ok(false);
                }
            };
            let bytes = self.part.split_to(length).freeze();
            let frame = self.frame(&bytes);
            self.offset = self.offset.saturating_add(frame.size);
            self.content_offset = self.content_offset.saturating_add(frame.content_size);
            self.looked_at = 0;
            let goes_on = if self.is_wanted(&frame) {
                self.gathering.add(Fetched { frame, bytes, from: sender }).await
            } else {
                self.gathering.hand_over().await
            };
            if !goes_on
                || self.round.have.is_full()
                || self.content_offset >= self.round.goal.blocks.end.saturating_mul(BLOCK)
            {
                return Ok(false);
            }
            sender = Sender::One(piece.from);
        }
        self.from = (!self.part.is_empty()).then_some(sender);
        Ok(true)
    }

    fn gathering(&mut self) -> &mut Gathering<'a> {
        &mut self.gathering
    }
}
