//! Where the bytes of a release come from: the seam between the installer and its repository.
//!
//! [`Source`] is one place; [`Mirrors`] are several that have the same payloads.
//!
//! Nothing here is trusted: every byte is checked by whoever receives it.

mod mirrors;
pub(crate) mod parts;
#[cfg(test)]
mod tests;
pub(crate) mod trouble;

use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use crate::failure::{Code, WithCode as _, coded};
use crate::http::Limits;
pub use crate::https::HttpsSource;
pub use mirrors::{MirrorId, Mirrors, Piece};
pub use trouble::{Again, NoRanges, Trouble};

/// A fetch under way: dropped, it stops.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
/// A part of a fetch under way: dropped, it stops.
pub type Attempting<'a> = Pin<Box<dyn Future<Output = Result<(), Trouble>> + Send + 'a>>;
/// A small file on its way: dropped, it stops.
pub type Getting<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send + 'a>>;
/// A small file that may not be there, on its way.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>>> + Send + 'a>>;

/// What becomes of an answer with a whole file to a request for a part of it that does not begin at the file's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unranged {
    /// It is read up to the part, which costs as much as fetching what lies before.
    Skipped,
    /// It is not read: the attempt fails with [`NoRanges`].
    Refused,
}

/// Bytes read from a file at once.
const CHUNK: usize = 256 << 10;

/// A repository: files below one place, read by range.
pub trait Source: Send + Sync + Debug {
    /// Sends bytes `range` of the file at `path` (below the repository) to `sink`, in order and without gaps.
    /// Retries and the resumption at the next byte are inside. A closed `sink` ends it without error: who receives
    /// knows why it stopped.
    ///
    /// # Errors
    /// When the bytes cannot be had, or the file ends before the range does.
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a>;

    /// The same up to the first failure: what was sent until then counts, and who calls decides whether and where to go on.
    /// The error does not say what was being fetched. A source that retries by itself need not have this.
    ///
    /// # Errors
    /// When the bytes cannot be had now, or at all.
    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        _unranged: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(async move { self.fetch(path, range, sink).await.map_err(Trouble::lasting) })
    }

    /// How long it is waited for, and how often it is asked.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The whole of a small file, at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be had, or is larger.
    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a>;

    /// The same of a file that may not be there: `None`. Whether it is not there or is kept back cannot be told:
    /// servers of object stores answer both alike.
    ///
    /// # Errors
    /// When it cannot be had for another reason, or is larger.
    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a>;

    /// The repository as a person would name it.
    fn describe(&self) -> String;
}

/// A repository in a directory: a USB stick, a mounted share, a test.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    root: PathBuf,
}

impl DirectorySource {
    /// A repository below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The place of `path`, which may not lead out of the directory.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(plain) {
            return Err(coded(Code::Repository, format!("{path:?} is no plain relative path")));
        }
        Ok(self.root.join(path))
    }

    async fn send(&self, path: &str, range: Range<u64>, sink: &mpsc::Sender<Bytes>) -> Result<()> {
        let place = self.place(path)?;
        let mut file = tokio::fs::File::open(&place).await.context("opening it")?;
        file.seek(std::io::SeekFrom::Start(range.start)).await.context("seeking in it")?;
        let mut rest = file.take(range.end.saturating_sub(range.start));
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if rest.read_buf(&mut chunk).await.context("reading it")? == 0 {
                break;
            }
            if sink.send(chunk.freeze()).await.is_err() {
                return Ok(());
            }
        }
        if rest.limit() > 0 {
            bail!("it ends {} bytes too early", rest.limit());
        }
        Ok(())
    }

    async fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>> {
        let file = tokio::fs::File::open(self.place(path)?).await.context("opening it")?;
        let most = u64::try_from(limit)?.saturating_add(1);
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).await.context("reading it")?;
        if bytes.len() > limit {
            bail!("it has more than {limit} bytes");
        }
        Ok(bytes)
    }
}

impl Source for DirectorySource {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move {
            let sent = self.send(path, range, &sink).await;
            sent.code(Code::Repository, || format!("fetching {}", self.root.join(path).display()))
        })
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        _unranged: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(async move { self.send(path, range, &sink).await.map_err(Trouble::lasting) })
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a> {
        Box::pin(async move {
            let read = self.read(path, limit).await;
            read.code(Code::Repository, || format!("fetching {}", self.root.join(path).display()))
        })
    }

    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        Box::pin(async move {
            let found = self.place(path).map(|place| place.exists());
            if matches!(found, Ok(false)) { Ok(None) } else { self.get(path, limit).await.map(Some) }
        })
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}
