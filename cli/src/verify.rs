//! `metalstrap verify`: looks at a repository as an installer would, through the installer's own code.

mod discard;
mod report;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_installer::access::Access;
use metalstrap_installer::converge::{self, Payloads, ReadBack, TreeOf};
use metalstrap_installer::disk::{FileDisk, Memory, Region};
use metalstrap_installer::fetch::{DirectorySource, HttpsSource, Mirrors, Source};
use metalstrap_installer::progress::Progress;
use metalstrap_installer::repository::{Repository, parse_manifest};
use metalstrap_installer::resolve::Resolver;
use metalstrap_release::allowed::{self, Allowed};
use metalstrap_release::digest::Digest;
use metalstrap_release::discovery::repository;
use metalstrap_release::host::{Groups, Host, ReleaseName, groups};
use metalstrap_release::manifest::{Artifact, MAX_SIGNATURES_BYTES, Manifest, Payload};
use metalstrap_release::metadata::TargetFile;
use metalstrap_release::pcr::{Bank, Pcr, Signatures};
use metalstrap_release::site::Site;
use metalstrap_release::verity::BLOCK;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use discard::Discard;
use report::{Report, shown};

use crate::output;

/// Looks at a repository as an installer would, over HTTPS or in a directory.
///
/// At the metadata, every host config and every manifest, and whether each payload is there with its seek table; with
/// --deep, at every byte.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap verify --site site.json
  metalstrap verify --site site.json --repository /srv/os --deep
It prints one line of JSON; `problems` is empty if all is well. Exit code: 0 all is well, 1 it is not.")]
pub struct Args {
    /// Site config: where the repository is, and whom to believe
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// The repository as a directory, instead of the site config's URL
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    /// Fetch every payload and check every block
    #[arg(long)]
    deep: bool,
    /// Warn of metadata that expires within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    warn_days: u32,
}

impl Args {
    /// Looks at the repository and prints what is wrong with it.
    ///
    /// # Errors
    /// When the site config cannot be used, or the metadata does not hold: then nothing else can be looked at.
    pub fn run(self) -> Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
        let report = runtime.block_on(self.look())?;
        println!("{}", output::line(&report)?);
        report.problems.iter().for_each(|problem| output::complain(problem));
        Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn look(&self) -> Result<Report> {
        let site =
            std::fs::read(&self.site).with_context(|| format!("reading the site config {}", self.site.display()))?;
        let site = Site::parse(&site).with_context(|| format!("checking the site config {}", self.site.display()))?;
        let source: Arc<dyn Source> = match &self.repository {
            Some(directory) => Arc::new(DirectorySource::new(directory)),
            None => {
                let access = Access::of_site(&site).context("using the site config")?;
                Arc::new(HttpsSource::new(repository(&site)?, access, Resolver::system()?)?)
            }
        };
        let repository = Repository::load(source, &site, &[]).await.context("checking the metadata")?;
        let mirrors = Arc::new(Mirrors::new(vec![Arc::clone(&repository.source)]));
        let mut report = Report::new(&repository, self.warn_days);
        let allowed = report.check(allowed(&repository).await).flatten();
        for file in repository.metadata.hosts.values() {
            report.check(host(&repository, file, allowed.as_ref()).await);
        }
        for file in repository.metadata.releases.values() {
            let manifest = manifest(&repository, file).await;
            let Some(manifest) = report.check(manifest) else { continue };
            for (what, payload) in manifest.payloads() {
                let found = converge::check_seek_table(&mirrors, payload, &Progress::default()).await;
                report.check(found.with_context(|| format!("{what} of {}", file.name)));
                report.payloads += 1;
            }
            report.check(pcr11(&repository, &manifest).await.with_context(|| file.name.clone()));
            if self.deep {
                report.check(every_block(&mirrors, &manifest).await.with_context(|| file.name.clone()));
            }
        }
        Ok(report)
    }
}

/// Fetches all of a release's payloads, and checks each block as an installation does.
async fn every_block(mirrors: &Arc<Mirrors>, manifest: &Manifest) -> Result<()> {
    let (root, boot) = (manifest.root()?, &manifest.boot);
    let what = format!("{} {}", manifest.name, manifest.version);
    for (form, data) in [("root", Some(&root.data)), ("root in small frames", root.fine.as_ref())] {
        let Some(data) = data else { continue };
        shown(&format!("{what}: {form}"), data, async |progress| {
            let nowhere = Discard::region(data.content_size);
            let tree = (root.root_hash, root.salt.0.as_slice(), Some(root.hash_tree_uuid));
            blocks(mirrors, data, &root.hash_tree, tree, &nowhere, progress).await
        })
        .await?;
    }
    for (name, artifact) in [("UKI", &boot.uki), ("boot loader", &boot.loader)] {
        for data in [Some(&artifact.data), artifact.fine.as_ref()].into_iter().flatten() {
            shown(&format!("{what}: {name}"), data, async |progress| file(mirrors, artifact, data, progress).await)
                .await
                .with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

/// What the manifest says of PCR 11: the shape of predictions, and bytes and shape of the signatures.
async fn pcr11(repository: &Repository, manifest: &Manifest) -> Result<()> {
    let Some(pcr11) = &manifest.boot.pcr11 else { return Ok(()) };
    let phases = pcr11.phases.read()?;
    if let (Some(pcr), Some(stub)) = (pcr11.after(&Pcr::zero(Bank::Sha256)), phases.first()) {
        let agree = pcr.value() == stub.sha256.0.as_slice();
        anyhow::ensure!(agree, "the manifest's boot.pcr11.sections lead to another value than its phases");
    }
    let (Some(path), Some(sha256)) = (pcr11.signatures_path(), pcr11.signatures) else { return Ok(()) };
    let bytes = repository.source.get(&path, MAX_SIGNATURES_BYTES).await?;
    let found = Digest::of(&bytes);
    anyhow::ensure!(found == sha256, "{path} has SHA-256 {found}, but the manifest says {sha256}");
    serde_json::from_slice::<Signatures>(&bytes).map(drop).with_context(|| format!("reading {path}"))
}

/// The list of the releases that host configs may name, if there is one: its bytes and its shape.
async fn allowed(repository: &Repository) -> Result<Option<Allowed>> {
    let Some(bytes) = repository.allowed_bytes().await? else { return Ok(None) };
    Allowed::parse(&bytes).map(Some).with_context(|| format!("reading {}", allowed::TARGET))
}

/// A host config, or the list of groups: its bytes, its shape, and that its releases are there and allowed.
async fn host(repository: &Repository, file: &TargetFile, allowed: Option<&Allowed>) -> Result<()> {
    let bytes = repository.fetch_host(file).await?;
    let reading = || format!("reading {}", file.name);
    let hosts = if file.name == groups::TARGET {
        let list = Groups::parse(&bytes).with_context(reading)?;
        list.groups.into_iter().map(|group| group.config).collect()
    } else {
        vec![Host::parse(&bytes).with_context(reading)?]
    };
    for Host { release, .. } in &hosts {
        let known = repository.metadata.releases.contains_key(&release.target());
        anyhow::ensure!(known, "{} names the release {release}, which the repository does not have", file.name);
        allowed.map_or(Ok(()), |allowed| allowed.check(&file.name, release))?;
    }
    Ok(())
}

/// A manifest: its bytes, its shape, and that it is the one of its name.
async fn manifest(repository: &Repository, file: &TargetFile) -> Result<Manifest> {
    let name = file.name.strip_suffix(".json").and_then(|name| name.split_once('_'));
    let (name, version) = name.with_context(|| format!("{} is no name of a release", file.name))?;
    let release = ReleaseName { name: name.to_owned(), version: version.to_owned() };
    let bytes = repository.manifest(&release).await?;
    parse_manifest(&bytes, &release)
}

/// Fetches tree and content to `place`.
async fn blocks(
    mirrors: &Arc<Mirrors>,
    data: &Payload,
    hash_tree: &Payload,
    (root_hash, salt, uuid): (Digest, &[u8], Option<Uuid>),
    place: &Region,
    progress: &Progress,
) -> Result<()> {
    let size = hash_tree.content_size;
    let memory = Region { disk: Arc::new(Memory::new(size, 512)), start: 0, size };
    let of = TreeOf { payload: hash_tree, root_hash, salt, data_blocks: data.content_size / BLOCK, uuid };
    let (tree, _) = converge::hash_tree(mirrors, of, &memory, &[], &Progress::default()).await?;
    let payloads = Payloads { data, fine: None };
    converge::data(mirrors, payloads, &Arc::new(tree), place, &[], ReadBack::Later, progress).await.map(drop)
}

async fn file(mirrors: &Arc<Mirrors>, artifact: &Artifact, data: &Payload, progress: &Progress) -> Result<()> {
    let Artifact { hash_tree, root_hash, salt, size, sha256, .. } = artifact;
    let copy = tempfile::NamedTempFile::new().context("making a temporary file")?;
    copy.as_file().set_len(data.content_size).context("making a temporary file")?;
    let disk = Arc::new(FileDisk::open(copy.path(), 512)?);
    let place = Region { disk, start: 0, size: data.content_size };
    blocks(mirrors, data, hash_tree, (*root_hash, &salt.0, None), &place, progress).await?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut copy.as_file().take(*size), &mut hasher).context("reading a temporary file")?;
    let found = Digest(hasher.finalize().into());
    anyhow::ensure!(found == *sha256, "its SHA-256 is {found}, but the manifest says {sha256}");
    Ok(())
}
