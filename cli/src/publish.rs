//! `metalstrap publish`: adds a release to a repository.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::ReleaseName;
use metalstrap_release::manifest::{
    Artifact, Boot, FORMAT, FileSystem, Manifest, Payload, Pcr11, SecureBoot, WATCHDOG, check_name, check_version,
};
use metalstrap_release::metadata::{Metadata, RoleName};
use metalstrap_release::payload::CompressOptions;
use serde_json::{Value, json};

use crate::artifact::{publish_file, publish_root};
use crate::layout::LayoutArgs;
use crate::payloads::Payloads;
use crate::repository::Repository;
use crate::signing::{Done, Signing, SigningArgs, summary};
use crate::stage::StageArgs;
use crate::sysupdate::{Inputs, SysupdateArgs};
use crate::uki::UkiFacts;
use crate::{output, size};

mod pcr11;
mod published;
mod secure_boot;
#[cfg(test)]
mod tests;

use pcr11::{Pcr11Args, Predicted};
use published::Published;
use secure_boot::SecureBootArgs;

/// Adds a release to a repository: compresses its artifacts, writes its manifest, and signs; the repository is made if
/// there is none.
///
/// Root file system, dm-verity tree and UKI may come from any builder: the UKI's command line names the tree's root
/// hash. Run again, it changes nothing, or completes what a killed run has begun. A published version never changes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap publish --name debian --version 13.2 --root root.raw --verity root.verity.raw \\
      --uki debian.efi --loader systemd-bootx64.efi --repository /srv/os --keys keys
It needs the keys targets.pem, snapshot.pem and timestamp.pem. It prints one line of JSON: path and digest of the
manifest, whether it was `published` now, bytes of the artifacts, versions and expiry of the metadata.")]
pub struct Args {
    /// Name of the OS: 1 to 16 of a-z, 0-9 and '-'
    #[arg(long)]
    name: String,
    /// Version: 1 to 12 of a-z, A-Z, 0-9 and '.~^-'
    #[arg(long)]
    version: String,
    /// Image of the root file system
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// Its dm-verity hash tree, with superblock and 4096-byte blocks
    #[arg(long, value_name = "FILE")]
    verity: PathBuf,
    /// Root hash that the UKI's command line must name [default: the one that it names]
    #[arg(long, value_name = "HEX")]
    root_hash: Option<Digest>,
    /// Unified kernel image, with roothash= on its command line
    #[arg(long, value_name = "FILE")]
    uki: PathBuf,
    /// Boot loader, such as systemd-bootx64.efi
    #[arg(long, value_name = "FILE")]
    loader: PathBuf,
    /// The OS takes over a hardware watchdog that is armed: it stays armed across kexec, and resets the machine unless it is fed
    /// so often; the OS is told by `systemd.watchdog_sec=` [default: it is stopped before the jump]
    #[arg(long, value_name = "SECONDS", value_parser = watchdog())]
    watchdog: Option<u32>,
    /// The OS has no systemd of version 257 or later, and cannot confirm that a kexec led to it: one that fails is not remembered
    #[arg(long)]
    unconfirmed: bool,
    /// Directory of the repository; made if there is none
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    stage: StageArgs,
    #[command(flatten)]
    layout: LayoutArgs,
    #[command(flatten)]
    compression: CompressionArgs,
    #[command(flatten)]
    pcr11: Pcr11Args,
    #[command(flatten)]
    secure_boot: SecureBootArgs,
    #[command(flatten)]
    sysupdate: SysupdateArgs,
}

/// What is known of the inputs before anything is written.
#[derive(Debug)]
pub struct Facts {
    /// What the UKI says of itself.
    uki: UkiFacts,
    /// What it makes of PCR 11.
    predicted: Predicted,
    /// By whom it is signed.
    signed: Option<SecureBoot>,
}

/// How payloads are compressed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Compression")]
struct CompressionArgs {
    /// zstd's level
    #[arg(long, value_name = "LEVEL", default_value_t = CompressOptions::default().level,
          value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Content of a frame, for machines that fetch a whole payload: large frames are small in sum
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = size::parse)]
    frame_size: u64,
    /// Content of a frame of the second form of a payload, for machines that lack little of it: small frames cost them
    /// less. Where that form is hardly larger, it is the only one
    #[arg(long, value_name = "SIZE", default_value = "32K", value_parser = size::parse)]
    fine_frame_size: u64,
    /// Threads [default: one a processor, up to 12]; the result does not depend on it
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
}

impl CompressionArgs {
    fn options(&self) -> CompressOptions {
        let threads = self.threads.unwrap_or_else(|| CompressOptions::default().threads);
        CompressOptions { level: self.level, frame_size: self.frame_size, threads }
    }
}

impl Args {
    /// Publishes the release and prints the result.
    ///
    /// # Errors
    /// When an input is not what the others say, or the repository cannot be written. Then no machine sees anything of
    /// it.
    pub fn run(self) -> Result<()> {
        let facts = self.check()?;
        let roles = [RoleName::Targets, RoleName::Snapshot, RoleName::Timestamp];
        let signing = self.signing.open_or_stage(&roles, &self.stage)?;
        let repository = Repository::create(&self.repository)?;
        output::print(&self.publish(&repository, &signing, facts)?)
    }

    /// What can be checked before anything is read or written at length.
    fn check(&self) -> Result<Facts> {
        check_name(&self.name)?;
        check_version(&self.version)?;
        self.layout.partitions()?;
        self.sysupdate.check(&self.repository, &self.name)?;
        let uki = UkiFacts::read(&self.uki)?;
        if let Some(expected) = self.root_hash {
            let found = uki.root_hash;
            ensure!(found == expected, "the UKI's command line names root hash {found}, not {expected}");
        }
        uki.check_version(&self.version)?;
        if !uki.has_gpt() {
            eprintln!(
                "warning: the UKI's command line lacks `gpt`: its kernel will not look at the backup partition table \
                 when the primary one is damaged"
            );
        }
        let signed = self.secure_boot.check(&self.uki, &self.loader)?;
        Ok(Facts { uki, predicted: self.pcr11.predict(&self.uki)?, signed })
    }

    fn publish(&self, repository: &Repository, signing: &Signing, facts: Facts) -> Result<Value> {
        let mut draft = signing.draft(repository)?;
        let name = ReleaseName { name: self.name.clone(), version: self.version.clone() };
        let there = Published::find(repository, &draft, &name)?;
        if let Some(there) = &there {
            there.check_same(self, &facts)?;
            if there.is_complete(repository) && !draft.is_changed() {
                eprintln!("{name} is already published");
                let Published { path, manifest, sha256 } = there;
                let metadata = signing.load(repository)?;
                self.lay_out(repository, manifest, &metadata)?;
                return Ok(result(path, *sha256, false, bytes(manifest)?, &summary(&metadata)));
            }
        }
        // Of a release from before PCR 11 was predicted, the manifest stays without.
        let pcr11 = match &there {
            Some(there) => there.manifest.boot.pcr11.clone(),
            None => facts.predicted.pcr11.clone(),
        };
        let manifest = match there.filter(|there| there.is_complete(repository)) {
            Some(there) => there.manifest,
            None => self.compress(signing.place(repository), facts, pcr11)?,
        };
        let (path, sha256, size) = signing.place(repository).add_manifest(&manifest)?;
        let added = draft.add_release(&name.target(), size, sha256)?;
        let changed = draft.is_changed();
        let done = signing.conclude(repository, draft, changed)?;
        if let Done::Published(metadata) = &done {
            self.lay_out(repository, &manifest, metadata)?;
        }
        Ok(result(&path, sha256, added && done.is_published(), bytes(&manifest)?, &done.summary()))
    }

    /// For systemd-sysupdate, once the release is one that machines may have.
    fn lay_out(&self, repository: &Repository, manifest: &Manifest, metadata: &Metadata) -> Result<()> {
        let inputs = Inputs { root: &self.root, verity: &self.verity, uki: &self.uki };
        self.sysupdate.publish(repository, manifest, &inputs, &metadata.releases)
    }

    /// Publishes the payloads, and returns the manifest that names them.
    fn compress(&self, repository: &Repository, facts: Facts, pcr11: Option<Pcr11>) -> Result<Manifest> {
        let Facts { uki: facts, predicted, signed: secure_boot } = facts;
        let fine_frame_size = self.compression.fine_frame_size;
        let payloads = Payloads { repository, options: self.compression.options(), fine_frame_size };
        let uki = publish_file(&payloads, "UKI", &self.uki, &self.name)?;
        let loader = publish_file(&payloads, "boot loader", &self.loader, &self.name)?;
        let root = publish_root(&payloads, &self.root, &self.verity, facts.root_hash)?;
        let layout = self.layout.layout(&root, &uki, &loader)?;
        predicted.write(repository)?;
        Ok(Manifest {
            format: FORMAT,
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: "x86-64".to_owned(),
            boot: Boot {
                uki,
                loader,
                cmdline: facts.cmdline,
                cmdline_limit: facts.cmdline_limit,
                pcr11,
                secure_boot,
                watchdog: self.watchdog,
                unconfirmed: self.unconfirmed,
            },
            filesystems: vec![root],
            layout,
        })
    }
}

/// The seconds that a manifest may have.
fn watchdog() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*WATCHDOG.start())..=i64::from(*WATCHDOG.end()))
}

fn result(path: &str, sha256: Digest, published: bool, bytes: Value, metadata: &Value) -> Value {
    json!({"manifest": path, "sha256": sha256, "published": published, "bytes": bytes, "metadata": metadata})
}

/// Bytes of every artifact: as it is, and as published.
fn bytes(manifest: &Manifest) -> Result<Value> {
    let FileSystem { data, fine, hash_tree, .. } = manifest.root().context("summing up")?;
    let Boot { uki, loader, .. } = &manifest.boot;
    let pair = |payload: &Payload| json!({"content": payload.content_size, "payload": payload.size});
    let trees = |artifact: &Artifact| pair(&artifact.hash_tree);
    let payloads = [data, hash_tree, &uki.data, &uki.hash_tree, &loader.data, &loader.hash_tree];
    let small = |payload: &Option<Payload>| payload.as_ref().map(|payload| payload.size);
    Ok(json!({
        "root": pair(data),
        "root_fine": small(fine),
        "root_hash_tree": pair(hash_tree),
        "uki": pair(&uki.data),
        "uki_fine": small(&uki.fine),
        "uki_hash_tree": trees(uki),
        "loader": pair(&loader.data),
        "loader_fine": small(&loader.fine),
        "loader_hash_tree": trees(loader),
        "content": payloads.iter().map(|payload| payload.content_size).sum::<u64>(),
        "payload": payloads.iter().map(|payload| payload.size).sum::<u64>(),
    }))
}
