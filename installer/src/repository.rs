//! The repository as this machine may believe it: its metadata judged, then the host config and the manifest that the
//! metadata vouches for.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Host, HostKey, ReleaseName};
use metalstrap_release::manifest::{self, Manifest};
use metalstrap_release::metadata::{
    Anchor, BoxError, Finding, Metadata, MetadataError, MetadataSource, TargetFile, TrustedRoot, Versions,
};
use metalstrap_release::{host, site::Site};

use crate::clock;
use crate::failure::{Code, WithCode as _, coded};
use crate::fetch::Source;

/// A repository whose metadata holds.
#[derive(Debug)]
pub struct Repository {
    /// Where its files come from.
    pub source: Arc<dyn Source>,
    /// What it holds.
    pub metadata: Metadata,
}

/// A host config as fetched: measured in this form, before it is parsed.
#[derive(Debug, Clone)]
pub struct HostBytes {
    bytes: Vec<u8>,
    key: HostKey,
}

/// What tough's errors cannot carry: the source's own, with its code.
#[derive(Debug)]
struct Files {
    source: Arc<dyn Source>,
    failure: Mutex<Option<anyhow::Error>>,
}

impl MetadataSource for Files {
    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        Box::pin(async move {
            self.source.find(path, limit).await.map_err(|error| {
                let text = format!("{error:#}");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                BoxError::from(text)
            })
        })
    }
}

/// The code of a refusal.
fn code(error: &MetadataError) -> Code {
    match error {
        MetadataError::Expired { .. } => Code::MetadataExpired,
        MetadataError::Rollback { .. } => Code::MetadataRollback,
        MetadataError::Source(_) => Code::Repository,
        _ => Code::Metadata,
    }
}

impl Repository {
    /// Fetches and judges the metadata from the site config's root on; `known` is what this machine has accepted before.
    ///
    /// # Errors
    /// The source's; [`Code::Metadata`], [`Code::MetadataExpired`] and [`Code::MetadataRollback`].
    pub async fn load(source: Arc<dyn Source>, site: &Site, known: Option<&Versions>) -> Result<Self> {
        let root = TrustedRoot::parse(&site.root).code(Code::SiteConfig, || "reading the trusted root".to_owned())?;
        let scratch = tempfile::tempdir().context("making a directory for the metadata")?;
        let files = Arc::new(Files { source: Arc::clone(&source), failure: Mutex::default() });
        let anchor = Anchor { root: &root, known, now: clock::now() };
        let metadata =
            TrustedRoot::load(Arc::<Files>::clone(&files), scratch.path(), anchor).await.map_err(|error| {
                let own = files.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                match (&error, own) {
                    (MetadataError::Source(_), Some(own)) => own,
                    _ => coded(code(&error), format!("{}: {error}", source.describe())),
                }
            })?;
        Ok(Self { source, metadata })
    }

    /// Fetches the host config of a machine with these keys, the most particular first.
    ///
    /// # Errors
    /// [`Code::HostConfig`] if there is none, or its bytes are not those that the metadata names.
    pub async fn host(&self, keys: &[HostKey]) -> Result<HostBytes> {
        let found = keys.iter().find_map(|key| Some((key, self.metadata.hosts.get(&key.target())?)));
        let Some((key, file)) = found else {
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            let text = format!("{} has no host config for {}", self.source.describe(), keys.join(", "));
            return Err(coded(Code::HostConfig, text));
        };
        let bytes = self.fetch_host(file).await?;
        Ok(HostBytes { bytes, key: key.clone() })
    }

    /// Fetches the host config `file`.
    ///
    /// # Errors
    /// [`Code::HostConfig`] if its bytes are not those that the metadata names.
    pub async fn fetch_host(&self, file: &TargetFile) -> Result<Vec<u8>> {
        self.target(file, host::MAX_BYTES, Code::HostConfig).await
    }

    /// Fetches a release's manifest.
    ///
    /// # Errors
    /// [`Code::Manifest`] if there is no such release, or its bytes are not those that the metadata names.
    pub async fn manifest(&self, release: &ReleaseName) -> Result<Vec<u8>> {
        let Some(file) = self.metadata.releases.get(&release.target()) else {
            let text = format!("{} has no release {release}, which the host config names", self.source.describe());
            return Err(coded(Code::Manifest, text));
        };
        self.target(file, manifest::MAX_BYTES, Code::Manifest).await
    }

    /// Fetches a file that the metadata vouches for.
    async fn target(&self, file: &TargetFile, most: usize, code: Code) -> Result<Vec<u8>> {
        let of = || format!("{} of {}", file.path, self.source.describe());
        let size = usize::try_from(file.size).unwrap_or(usize::MAX);
        if size > most {
            return Err(coded(code, format!("{} has {size} bytes, more than the {most} allowed", of())));
        }
        let bytes = self.source.get(&file.path, most).await?;
        let found = Digest::of(&bytes);
        if found != file.sha256 {
            return Err(coded(code, format!("{} has SHA-256 {found}, but the metadata says {}", of(), file.sha256)));
        }
        Ok(bytes)
    }
}

impl HostBytes {
    /// What is measured.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it was found by.
    #[must_use]
    pub fn key(&self) -> &HostKey {
        &self.key
    }

    /// Parses and checks it.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(&self) -> Result<Host> {
        Host::parse(&self.bytes).code(Code::HostConfig, || format!("reading {}", self.key.target()))
    }
}

/// Parses and checks the manifest of `release`.
///
/// # Errors
/// Names the field and what is wrong with it; a manifest of another release.
pub fn parse_manifest(bytes: &[u8], release: &ReleaseName) -> Result<Manifest> {
    let manifest = Manifest::parse(bytes).code(Code::Manifest, || format!("reading {}", release.target()))?;
    if (&manifest.name, &manifest.version) != (&release.name, &release.version) {
        let text = format!("{} is the manifest of {} {}", release.target(), manifest.name, manifest.version);
        return Err(coded(Code::Manifest, text));
    }
    Ok(manifest)
}
