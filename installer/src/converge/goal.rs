//! What a part of the disk is to become: blocks of a payload's content.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::manifest::Payload;
use metalstrap_release::verity::BLOCK;

use super::expected::Expected;
use super::frames::Frames;
use super::scan::Sampling;
use crate::disk::{Region, Writer};
use crate::progress::Progress;

/// Blocks that are looked at in one go: 16 GiB. Memory is bounded by it: 32 MiB for the index of what is missing, and of each
/// block that another one is equal to 4 bytes more when the index is left, then some 10 in its place, then 8. Equal blocks in
/// different windows are fetched once for each.
const WINDOW: u64 = 1 << 22;
/// What a cut may cost: bytes of frames that were asked for and are not on stable storage. With what every run fetches anew
/// (metadata, and seek tables of at most 4 MiB each) it stays below 64 MiB.
const AT_RISK: u64 = 56 << 20;
/// Writes under way at once. With 1 MiB each they keep a drive busy, and take 16 MiB of memory.
const DEPTH: usize = 16;

/// A stretch of blocks with a place on the disk, and all that is needed to bring it there.
#[derive(Debug, Clone)]
pub(super) struct Goal {
    /// Where the content is fetched from.
    pub frames: Arc<Frames>,
    /// The place of the payload's content: block 0 lies at its start.
    pub region: Region,
    /// What the blocks must be.
    pub expected: Arc<dyn Expected>,
    /// The blocks of the content that are meant.
    pub blocks: Range<u64>,
    /// How many blocks are looked at in one go.
    pub window: u64,
    /// How much is tried of a place before all of it is looked at.
    pub sampling: Sampling,
    /// Bytes of frames that a cut may cost.
    pub at_risk: u64,
    /// Whether what is written is read back while the network is waited for.
    pub reads_back: bool,
    /// Whether the blocks right before it are read through the page cache meanwhile, with a readahead that may run into it.
    pub read_beside: bool,
    /// Where progress goes.
    pub progress: Progress,
}

impl Goal {
    /// A goal: there must be room for the blocks.
    ///
    /// # Errors
    /// What the manifest's and the plan's checks say, looked at once more before the first write.
    pub fn new(
        frames: Arc<Frames>,
        region: &Region,
        expected: Arc<dyn Expected>,
        blocks: Range<u64>,
        progress: &Progress,
    ) -> Result<Self> {
        let content_size = frames.payload().content_size;
        ensure!(
            content_size <= region.size,
            "the payload has {content_size} bytes, but its place on the disk {}",
            region.size
        );
        let inside = blocks.end.checked_mul(BLOCK).is_some_and(|end| end <= content_size);
        ensure!(inside, "the payload has {content_size} bytes, which block {} is behind", blocks.end);
        Ok(Self {
            frames,
            region: region.clone(),
            expected,
            blocks,
            window: WINDOW,
            sampling: Sampling::default(),
            at_risk: AT_RISK,
            reads_back: false,
            read_beside: false,
            progress: progress.clone(),
        })
    }

    /// The goal in parts of bounded size.
    pub fn windows(&self) -> impl Iterator<Item = Self> {
        let Range { start, end } = self.blocks;
        let step = usize::try_from(self.window.max(1)).unwrap_or(usize::MAX);
        (start..end).step_by(step).map(move |first| {
            let blocks = first..first.saturating_add(self.window.max(1)).min(end);
            Self { blocks, ..self.clone() }
        })
    }

    /// A queue for writes to the place.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn writer(&self) -> Result<Writer> {
        let start = if self.read_beside { Writer::start_threads } else { Writer::start };
        start(self.region.clone(), DEPTH).context("starting the write queue")
    }
}

/// Which payload, and who sent it: what a message about it starts with.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// Below the repository.
    pub path: String,
    /// As a person would name it.
    pub mirror: String,
}

impl Origin {
    /// `payload` as `mirror` has it.
    pub fn new(payload: &Payload, mirror: String) -> Self {
        Self { path: payload_path(payload), mirror }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.path, self.mirror)
    }
}

/// Where a payload lies in its repository.
pub(super) fn payload_path(payload: &Payload) -> String {
    format!("payloads/{}.zst", payload.sha256)
}
