//! A payload as it comes from a source: its seek table, then its frames in order.

use std::fmt;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::Payload;
use metalstrap_release::payload::{Frame, FrameDecoder, SeekTable};
use metalstrap_release::seek_table::MAX_BYTES;

use super::stream::{Incoming, pump};
use crate::failure::{Code, WithCode as _, coded};
use crate::fetch::Source;
use crate::progress::Progress;

/// Which payload, and who sent it: what a message about it starts with.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    path: String,
    mirror: String,
}

impl Origin {
    pub fn new(source: &dyn Source, payload: &Payload) -> Self {
        Self { path: format!("payloads/{}.zst", payload.sha256), mirror: source.describe() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.path, self.mirror)
    }
}

/// Fetches `payload` and hands the content of its frames to `each`, in order, together with `state`, on a thread
/// that may block. Gives back the state and the number of bytes fetched.
pub(super) async fn frames<T: Send + 'static>(
    source: &dyn Source,
    payload: &Payload,
    progress: &Progress,
    mut state: T,
    mut each: impl FnMut(&mut T, &Origin, &Frame, &[u8]) -> Result<()> + Send + 'static,
) -> Result<(T, u64)> {
    let origin = Origin::new(source, payload);
    let path = origin.path.clone();
    let start = payload.size.checked_sub(payload.seek_table_size).context("a seek table larger than its payload")?;
    let table = seek_table(source, payload, start, &origin, progress).await?;
    let work = move |incoming: &mut Incoming| {
        let mut decoder = FrameDecoder::new();
        let (mut bytes, mut content) = (Vec::new(), Vec::new());
        for frame in table.frames() {
            incoming.take(frame.size, &mut bytes)?;
            decoder.decode(frame, &bytes, &mut content).code(Code::Corrupt, || format!("{origin} is corrupt"))?;
            each(&mut state, &origin, frame, &content)?;
        }
        Ok(state)
    };
    let (state, fetched) = pump(source, &path, 0..start, progress, work).await?;
    Ok((state, fetched.saturating_add(payload.seek_table_size)))
}

/// Fetches and checks a payload's seek table and nothing more: whether the payload is there, and as long as it should be.
///
/// # Errors
/// [`Code::Corrupt`] when it is another one, and the source's.
pub async fn check_seek_table(source: &dyn Source, payload: &Payload, progress: &Progress) -> Result<()> {
    let start = payload.size.checked_sub(payload.seek_table_size).context("a seek table larger than its payload")?;
    seek_table(source, payload, start, &Origin::new(source, payload), progress).await.map(drop)
}

/// Fetches and checks the seek table, which is the payload's end from byte `start` on.
async fn seek_table(
    source: &dyn Source,
    payload: &Payload,
    start: u64,
    origin: &Origin,
    progress: &Progress,
) -> Result<SeekTable> {
    let size = payload.seek_table_size;
    if size > MAX_BYTES {
        let message = format!("the seek table of {origin} has {size} bytes, more than the {MAX_BYTES} allowed");
        return Err(coded(Code::Manifest, message));
    }
    let take = move |incoming: &mut Incoming| {
        let mut bytes = Vec::new();
        incoming.take(size, &mut bytes)?;
        Ok(bytes)
    };
    let (bytes, _) = pump(source, &origin.path, start..payload.size, progress, take).await?;
    SeekTable::parse(&bytes, payload).code(Code::Corrupt, || format!("{origin} is corrupt"))
}
