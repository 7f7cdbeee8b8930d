//! A payload at its mirrors: its seek table, fetched when it is needed for the first time, and pieces of its frames.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// A payload and where it comes from.
#[derive(Debug)]
pub(super) struct Frames {
    payload: Payload,
    pub mirrors: Arc<Mirrors>,
    table: OnceCell<SeekTable>,
    fetched: AtomicU64,
    /// Something was wrong that several mirrors had sent parts of, so that nobody can tell which of them lied: from then on
    /// whatever is checked as a whole comes from one of them.
    careful: AtomicBool,
}

impl Frames {
    /// `payload` as `mirrors` have it. Nothing is fetched yet.
    pub fn new(payload: &Payload, mirrors: &Arc<Mirrors>) -> Arc<Self> {
        let (payload, mirrors) = (payload.clone(), Arc::clone(mirrors));
        let (table, fetched, careful) = (OnceCell::new(), AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { payload, mirrors, table, fetched, careful })
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

    /// Whether each frame is to come from one mirror.
    pub fn is_careful(&self) -> bool {
        self.careful.load(Ordering::Relaxed)
    }

    /// From now on each frame comes from one mirror: what is wrong next has one author.
    pub fn be_careful(&self) {
        self.careful.store(true, Ordering::Relaxed);
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
            let apart = self.is_careful();
            let (bytes, from) = self.collect(start..self.payload.size, apart, progress).await?;
            let parsed = SeekTable::parse(&bytes, &self.payload);
            let Err(error) = &parsed else { return Ok(parsed?) };
            let told = format!("{} is corrupt: {error}", self.path());
            let from = match from {
                Some(from) => from,
                None if !apart => {
                    self.be_careful();
                    continue;
                }
                None => return parsed.code(Code::Corrupt, || format!("{} is corrupt", self.path())),
            };
            if self.mirrors.drop_liar(from, &told) {
                continue;
            }
            let origin = self.origin(from);
            return parsed.code(Code::Corrupt, || format!("{origin} is corrupt"));
        }
    }

    /// A few bytes as a whole, and who sent all of them: somebody in any case if they are fetched `apart`.
    async fn collect(
        &self,
        range: Range<u64>,
        apart: bool,
        progress: &Progress,
    ) -> Result<(Vec<u8>, Option<MirrorId>)> {
        let (sink, mut pieces) = mpsc::channel::<Piece>(QUEUE);
        let (path, mut bytes, mut senders) = (self.path(), Vec::new(), Vec::new());
        let receive = async {
            while let Some(piece) = pieces.recv().await {
                self.count(piece.bytes.len(), progress);
                if apart && senders.last().is_some_and(|last| *last != piece.from) {
                    // It has begun again.
                    bytes.clear();
                    senders.clear();
                }
                bytes.extend_from_slice(&piece.bytes);
                senders.push(piece.from);
            }
        };
        let fetch = if apart {
            self.mirrors.fetch_apart(&path, range, &[], sink)
        } else {
            self.mirrors.fetch(&path, range, sink)
        };
        let (fetched, ()) = tokio::join!(fetch, receive);
        fetched?;
        senders.dedup();
        Ok((bytes, if let [only] = senders.as_slice() { Some(*only) } else { None }))
    }
}
