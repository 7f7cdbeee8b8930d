//! A ranged stream from the source to a blocking thread.

use std::ops::Range;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::fetch::Source;
use crate::progress::Progress;

/// Pieces between the source and the thread. With those of a TLS record or a file read, some MiB at most.
const QUEUE: usize = 16;

/// The receiving end, for a thread that may block.
#[derive(Debug)]
pub(super) struct Incoming {
    pieces: mpsc::Receiver<Bytes>,
    /// What is left of the last piece.
    rest: Bytes,
    progress: Progress,
    taken: u64,
}

/// The source stopped before all bytes were there. Why is the source's error.
#[derive(Debug, thiserror::Error)]
#[error("the stream ended {missing} bytes too early")]
struct Ended {
    missing: u64,
}

impl Incoming {
    /// Replaces `bytes` by the next `count` bytes of the stream.
    pub fn take(&mut self, count: u64, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.clear();
        let mut missing = usize::try_from(count)?;
        while missing > 0 {
            if self.rest.is_empty() {
                let piece = self.pieces.blocking_recv();
                self.rest = piece.ok_or(Ended { missing: u64::try_from(missing)? })?;
                let length = u64::try_from(self.rest.len())?;
                self.taken += length;
                self.progress.fetched(length);
            }
            let part = self.rest.len().min(missing);
            bytes.extend_from_slice(&self.rest.split_to(part));
            missing -= part;
        }
        Ok(())
    }
}

/// Streams bytes `range` of the file at `path` to `work` on a thread that may block, and gives back its result and
/// the number of bytes that came.
///
/// # Errors
/// The thread's; if it failed only because the stream ended, the source's. Once the thread has what it needs, the
/// source's errors mean nothing.
pub(super) async fn pump<T: Send + 'static>(
    source: &dyn Source,
    path: &str,
    range: Range<u64>,
    progress: &Progress,
    work: impl FnOnce(&mut Incoming) -> Result<T> + Send + 'static,
) -> Result<(T, u64)> {
    let (sink, pieces) = mpsc::channel(QUEUE);
    let mut incoming = Incoming { pieces, rest: Bytes::new(), progress: progress.clone(), taken: 0 };
    let mut worker = tokio::task::spawn_blocking(move || {
        let result = work(&mut incoming)?;
        Ok((result, incoming.taken))
    });
    let mut fetch = source.fetch(path, range, sink);
    // A thread that is done has all its bytes, or failed: either way a source that waits for the network is not
    // waited for.
    let (fetched, worked) = tokio::select! {
        fetched = &mut fetch => {
            drop(fetch);
            (fetched, worker.await)
        }
        worked = &mut worker => (Ok(()), worked),
    };
    let worked: Result<(T, u64)> =
        worked.with_context(|| format!("the thread that takes {path} ended without a result"))?;
    match (fetched, worked) {
        (Err(source), Err(worker)) if worker.is::<Ended>() => Err(source),
        (_, worked) => worked,
    }
}
