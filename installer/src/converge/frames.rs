//! A payload at its mirrors: its seek table, fetched when it is needed for the first time, and pieces of its frames.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::Payload;
use metalstrap_release::payload::SeekTable;
use metalstrap_release::seek_table::MAX_BYTES;
use tokio::sync::{OnceCell, mpsc};

use super::goal::{Origin, payload_path};
use crate::failure::{Code, WithCode as _, coded};
use crate::fetch::{MirrorId, Mirrors, Piece};
use crate::progress::Progress;

/// Pieces between a connection and who cuts them. With those of a TLS record or a file read, some MiB at most.
pub(super) const QUEUE: usize = 4;

/// How often something that several mirrors had sent parts of may be wrong.
const MOST_MIXED: u64 = 16;

/// A payload and where it comes from.
#[derive(Debug)]
pub(super) struct Frames {
    payload: Payload,
    pub mirrors: Arc<Mirrors>,
    table: OnceCell<SeekTable>,
    fetched: AtomicU64,
    /// Frames that several mirrors had sent parts of and that were wrong: nobody can tell which of them lied.
    mixed: AtomicU64,
}

impl Frames {
    /// `payload` as `mirrors` have it. Nothing is fetched yet.
    pub fn new(payload: &Payload, mirrors: &Arc<Mirrors>) -> Arc<Self> {
        let (payload, mirrors) = (payload.clone(), Arc::clone(mirrors));
        Arc::new(Self {
            payload,
            mirrors,
            table: OnceCell::new(),
            fetched: AtomicU64::new(0),
            mixed: AtomicU64::new(0),
        })
    }

    /// What the manifest says of it.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Below the repository.
    pub fn path(&self) -> String {
        payload_path(&self.payload)
    }

    /// The payload as a mirror has it, for messages.
    pub fn origin(&self, from: MirrorId) -> Origin {
        Origin::new(&self.payload, self.mirrors.describe(from))
    }

    /// Bytes that came of it so far.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// How many frames were wrong of which several mirrors had sent parts.
    pub fn mixed(&self) -> u64 {
        self.mixed.load(Ordering::Relaxed)
    }

    /// Counts one more of them: whether it may be asked for again without anybody being blamed.
    pub fn may_mix(&self) -> bool {
        self.mixed.fetch_add(1, Ordering::Relaxed) < MOST_MIXED
    }

    /// The seek table, if it was fetched.
    pub fn known_table(&self) -> Option<&SeekTable> {
        self.table.get()
    }

    /// `bytes` more came.
    pub fn count(&self, bytes: usize, progress: &Progress) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        progress.fetched(bytes);
    }

    /// Its seek table, which is the payload's end.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when no mirror has the one that the manifest names, and the mirrors'.
    pub async fn table(&self, progress: &Progress) -> Result<&SeekTable> {
        self.table.get_or_try_init(|| self.fetch_table(progress)).await
    }

    async fn fetch_table(&self, progress: &Progress) -> Result<SeekTable> {
        let size = self.payload.seek_table_size;
        if size > MAX_BYTES {
            let (path, first) = (self.path(), self.mirrors.describe(self.mirrors.first()));
            let message =
                format!("the seek table of {path} from {first} has {size} bytes, more than the {MAX_BYTES} allowed");
            return Err(coded(Code::Manifest, message));
        }
        let start = self.payload.size.checked_sub(size).context("a seek table larger than its payload")?;
        loop {
            let (bytes, from) = self.collect(start..self.payload.size, progress).await?;
            let parsed = SeekTable::parse(&bytes, &self.payload);
            let Err(error) = &parsed else { return Ok(parsed?) };
            let told = format!("{} is corrupt: {error}", self.path());
            if from.is_none() && self.may_mix() {
                continue;
            }
            let from = from.unwrap_or_else(|| self.mirrors.first());
            if self.mirrors.drop_liar(from, &told) {
                continue;
            }
            let origin = self.origin(from);
            return parsed.code(Code::Corrupt, || format!("{origin} is corrupt"));
        }
    }

    /// A few bytes as a whole, and who sent all of them.
    async fn collect(&self, range: Range<u64>, progress: &Progress) -> Result<(Vec<u8>, Option<MirrorId>)> {
        let (sink, mut pieces) = mpsc::channel::<Piece>(QUEUE);
        let (path, mut bytes, mut senders) = (self.path(), Vec::new(), Vec::new());
        let receive = async {
            while let Some(piece) = pieces.recv().await {
                self.count(piece.bytes.len(), progress);
                bytes.extend_from_slice(&piece.bytes);
                senders.push(piece.from);
            }
        };
        let (fetched, ()) = tokio::join!(self.mirrors.fetch(&path, range, sink), receive);
        fetched?;
        senders.dedup();
        Ok((bytes, if let [only] = senders.as_slice() { Some(*only) } else { None }))
    }
}
