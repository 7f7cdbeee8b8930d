//! Compresses contents to payloads of a repository.

use std::io::{BufWriter, Read};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::manifest::Payload;
use metalstrap_release::payload::{CompressOptions, compress, least_frame_size};
use metalstrap_release::verity::BLOCK;
use tempfile::NamedTempFile;

use crate::progress::Progress;
use crate::repository::Repository;

/// A second form of a payload in smaller frames is worth its place only where it is larger than the first by more than
/// one part in so many.
const WORTH_A_SECOND: u64 = 32;

/// The payloads of a repository, and how they are made.
#[derive(Debug)]
pub struct Payloads<'a> {
    /// Where they go.
    pub repository: &'a Repository,
    /// How they are compressed.
    pub options: CompressOptions,
    /// Content of a frame of the second form, in bytes.
    pub fine_frame_size: u64,
}

/// A payload that has no name yet.
struct Unnamed {
    payload: Payload,
    file: NamedTempFile,
}

impl Payloads<'_> {
    /// Compresses a content of `size` bytes twice, in large and in small frames, to `payloads/<sha256>.zst`: the second is
    /// absent where one form serves both purposes. `what` names it in progress and errors.
    ///
    /// # Errors
    /// When the content cannot be read or has another size, or the payload cannot be written.
    pub fn add_both<R: Read>(
        &self,
        what: &str,
        content: impl Fn() -> Result<R>,
        size: u64,
    ) -> Result<(Payload, Option<Payload>)> {
        let large = self.compress(what, &mut content()?, size, self.options.frame_size)?;
        if self.fine_frame_size >= self.options.frame_size {
            return Ok((self.keep(what, large)?, None));
        }
        let small = self.compress(&format!("{what} (small frames)"), &mut content()?, size, self.fine_frame_size)?;
        if small.payload.size <= large.payload.size.saturating_add(large.payload.size / WORTH_A_SECOND) {
            return Ok((self.keep(what, small)?, None));
        }
        Ok((self.keep(what, large)?, Some(self.keep(what, small)?)))
    }

    /// Compresses a hash file of `size` bytes, block by block: digests hardly compress, so that small frames cost nothing,
    /// and a machine fetches just the blocks that changed.
    ///
    /// # Errors
    /// As [`Payloads::add_both`].
    pub fn add_tree(&self, what: &str, content: &mut dyn Read, size: u64) -> Result<Payload> {
        let made = self.compress(what, content, size, BLOCK)?;
        self.keep(what, made)
    }

    fn compress(&self, what: &str, content: &mut dyn Read, size: u64, frame_size: u64) -> Result<Unnamed> {
        let mut progress = Progress::new(what, size);
        let mut file = self.repository.temporary("payloads")?;
        let mut output = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        let options = CompressOptions { frame_size: least_frame_size(size, frame_size), ..self.options };
        let payload = compress(content, &mut output, &options, &mut |done| progress.update(done));
        let payload = payload.with_context(|| format!("publishing the {what}"))?;
        drop(output);
        let found = payload.content_size;
        ensure!(found == size, "publishing the {what}: it has {found} bytes, not {size}");
        Ok(Unnamed { payload, file })
    }

    fn keep(&self, what: &str, Unnamed { payload, file }: Unnamed) -> Result<Payload> {
        self.repository.keep(file, &path(&payload)).with_context(|| format!("publishing the {what}"))?;
        Ok(payload)
    }
}

/// Where a payload lies below its repository.
pub fn path(payload: &Payload) -> String {
    format!("payloads/{}.zst", payload.sha256)
}
