//! The directory that a web server serves: payloads and manifests under names that say their digest.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Manifest, Payload};
use metalstrap_release::payload::{CompressOptions, compress};
use tempfile::NamedTempFile;

use crate::progress::Progress;

/// A repository on this machine. What it holds is complete at any time: files appear under their name by a rename.
#[derive(Debug)]
pub struct Repository {
    directory: PathBuf,
    options: CompressOptions,
}

impl Repository {
    /// Opens the repository in `directory`, which is made if there is none.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn open(directory: &Path, options: CompressOptions) -> Result<Self> {
        for part in ["payloads", "targets"] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        Ok(Self { directory: directory.to_owned(), options })
    }

    /// Compresses `content` of `size` bytes to `payloads/<sha256>.zst`. `what` names it in progress and errors.
    ///
    /// # Errors
    /// When the content cannot be read or has another size, or the payload cannot be written.
    pub fn add_payload(&self, what: &str, content: &mut dyn Read, size: u64) -> Result<Payload> {
        let publishing = || format!("publishing the {what}");
        let mut progress = Progress::new(what, size);
        let mut file = self.temporary("payloads")?;
        let mut output = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        let payload = compress(content, &mut output, &self.options, &mut |done| progress.update(done));
        let payload = payload.with_context(publishing)?;
        drop(output);
        anyhow::ensure!(
            payload.content_size == size,
            "publishing the {what}: it has {} bytes, not {size}",
            payload.content_size
        );
        self.keep(file, "payloads", &format!("{}.zst", payload.sha256)).with_context(publishing)?;
        Ok(payload)
    }

    /// Writes the manifest to `targets/`, and returns its path below the repository and its digest.
    ///
    /// # Errors
    /// When the manifest is none that the installer takes, or cannot be written.
    pub fn add_manifest(&self, manifest: &Manifest) -> Result<(String, Digest)> {
        let mut bytes = serde_json::to_vec_pretty(manifest).context("encoding the manifest")?;
        bytes.push(b'\n');
        Manifest::parse(&bytes).context("checking the manifest")?;
        let digest = Digest::of(&bytes);
        let name = format!("{digest}.{}_{}.json", manifest.name, manifest.version);
        let mut file = self.temporary("targets")?;
        file.write_all(&bytes).context("writing the manifest")?;
        self.keep(file, "targets", &name)?;
        Ok((format!("targets/{name}"), digest))
    }

    fn temporary(&self, part: &str) -> Result<NamedTempFile> {
        let directory = self.directory.join(part);
        // Readable for the web server, unlike other temporary files.
        let mut builder = tempfile::Builder::new();
        builder.prefix(".new-").permissions(Permissions::from_mode(0o644));
        builder.tempfile_in(&directory).with_context(|| format!("making a file in {}", directory.display()))
    }

    /// Gives the file its name, once its bytes are on the disk.
    fn keep(&self, file: NamedTempFile, part: &str, name: &str) -> Result<()> {
        let directory = self.directory.join(part);
        let path = directory.join(name);
        let writing = || format!("writing {}", path.display());
        file.as_file().sync_all().with_context(writing)?;
        file.persist(&path).with_context(writing)?;
        File::open(&directory).and_then(|directory| directory.sync_all()).with_context(writing)
    }
}
