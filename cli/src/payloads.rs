//! Compresses contents to payloads of a repository.

use std::io::{BufWriter, Read};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::manifest::Payload;
use metalstrap_release::payload::{CompressOptions, compress};

use crate::progress::Progress;
use crate::repository::Repository;

/// The payloads of a repository, and how they are made.
#[derive(Debug)]
pub struct Payloads<'a> {
    /// Where they go.
    pub repository: &'a Repository,
    /// How they are compressed.
    pub options: CompressOptions,
}

impl Payloads<'_> {
    /// Compresses `content` of `size` bytes to `payloads/<sha256>.zst`. `what` names it in progress and errors.
    ///
    /// # Errors
    /// When the content cannot be read or has another size, or the payload cannot be written.
    pub fn add(&self, what: &str, content: &mut dyn Read, size: u64) -> Result<Payload> {
        let publishing = || format!("publishing the {what}");
        let mut progress = Progress::new(what, size);
        let mut file = self.repository.temporary("payloads")?;
        let mut output = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        let payload = compress(content, &mut output, &self.options, &mut |done| progress.update(done));
        let payload = payload.with_context(publishing)?;
        drop(output);
        let found = payload.content_size;
        ensure!(found == size, "publishing the {what}: it has {found} bytes, not {size}");
        self.repository.keep(file, &path(&payload)).with_context(publishing)?;
        Ok(payload)
    }
}

/// Where a payload lies below its repository.
pub fn path(payload: &Payload) -> String {
    format!("payloads/{}.zst", payload.sha256)
}
