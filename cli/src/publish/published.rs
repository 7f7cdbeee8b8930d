//! A version that is published already, and never changes.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::ReleaseName;
use metalstrap_release::manifest::{Artifact, Boot, Manifest};
use metalstrap_release::metadata::Draft;
use sha2::{Digest as _, Sha256};

use super::{Args, Facts};
use crate::artifact::measure;
use crate::payloads;
use crate::repository::Repository;

/// A release that the repository has.
#[derive(Debug)]
pub struct Published {
    /// Path of its manifest.
    pub path: String,
    /// Digest of its manifest.
    pub sha256: Digest,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Published {
    /// The release, if the repository has it and its manifest is there as it was signed.
    pub fn find(repository: &Repository, draft: &Draft, name: &ReleaseName) -> Result<Option<Self>> {
        let Some(target) = draft.releases()?.remove(&name.target()) else { return Ok(None) };
        let bytes = fs::read(repository.directory().join(&target.path)).unwrap_or_default();
        if Digest::of(&bytes) != target.sha256 {
            eprintln!("warning: {} is lost or damaged: publishing it again", target.path);
            return Ok(None);
        }
        let reading = || format!("reading {}", target.path);
        let manifest = Manifest::parse(&bytes).with_context(reading)?;
        Ok(Some(Self { path: target.path.clone(), sha256: target.sha256, manifest }))
    }

    /// Checks that what is to be published is what was published, however it was compressed: cheap, since digests say
    /// it all.
    pub fn check_same(&self, args: &Args, facts: &Facts) -> Result<()> {
        let Boot { uki, loader, .. } = &self.manifest.boot;
        let root = self.manifest.root().context("reading the manifest")?;
        let differs = |artifact: &Artifact, path| {
            measure(path)
                .map(|found| found != (artifact.size, artifact.sha256))
                .context("reading what is to be published")
        };
        let wanted = args.layout.layout(root, uki, loader)?;
        let other = [
            ("root file system", root.root_hash != facts.uki.root_hash),
            ("UKI", differs(uki, &args.uki)?),
            ("boot loader", differs(loader, &args.loader)?),
            ("layout of the disk", wanted != self.manifest.layout),
            ("time of the watchdog", self.manifest.boot.watchdog != args.watchdog),
            ("confirmation of a kexec", self.manifest.boot.unconfirmed != args.unconfirmed),
            ("list of PCR 11 signatures", self.signatures() != facts.predicted.signatures()),
            ("list of certificates for Secure Boot", self.manifest.boot.secure_boot != facts.signed),
        ];
        let other: Vec<_> = other.iter().filter(|(_, differs)| *differs).map(|(what, _)| *what).collect();
        let Manifest { name, version, .. } = &self.manifest;
        ensure!(
            other.is_empty(),
            "{name} {version} is published already, with another {}: a published version never changes; publish under \
             another --version",
            other.join(" and another ")
        );
        Ok(())
    }

    /// Whether all of its payloads are there, by their digests: a damaged one is made again.
    pub fn is_complete(&self, repository: &Repository) -> bool {
        let sound = |path: &str, sha256| is_file(&repository.directory().join(path), sha256);
        let payloads = self.manifest.payloads();
        let pcr11 = self.manifest.boot.pcr11.as_ref();
        let signatures = pcr11.and_then(|pcr11| Some((pcr11.signatures_path()?, pcr11.signatures?)));
        payloads.into_iter().all(|(_, payload)| sound(&payloads::path(payload), payload.sha256))
            && signatures.is_none_or(|(path, sha256)| sound(&path, sha256))
    }

    fn signatures(&self) -> Option<Digest> {
        self.manifest.boot.pcr11.as_ref()?.signatures
    }
}

/// Whether a file is the one that its name says.
fn is_file(path: &Path, sha256: Digest) -> bool {
    let mut hasher = Sha256::new();
    let hashed = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    let sound = hashed.is_ok() && Digest(hasher.finalize().into()) == sha256;
    if !sound {
        eprintln!("warning: {} is lost or damaged: publishing it again", path.display());
    }
    sound
}
