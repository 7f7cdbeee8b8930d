//! `metalstrap verify`: looks at a repository as an installer would, through the installer's own code.

mod discard;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_installer::converge;
use metalstrap_installer::fetch::{DirectorySource, HttpsSource, Source};
use metalstrap_installer::progress::Progress;
use metalstrap_installer::repository::{Repository, parse_manifest};
use metalstrap_installer::resolve::Resolver;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Host, ReleaseName};
use metalstrap_release::manifest::{Artifact, Manifest, Payload};
use metalstrap_release::metadata::TargetFile;
use metalstrap_release::site::Site;
use metalstrap_release::verity::{BLOCK, MemoryStore};

use discard::Discard;
use report::{Report, shown};

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
        println!("{}", serde_json::to_string(&report).context("writing the result as JSON")?);
        for problem in &report.problems {
            eprintln!("metalstrap: {problem}");
        }
        Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn look(&self) -> Result<Report> {
        let site =
            std::fs::read(&self.site).with_context(|| format!("reading the site config {}", self.site.display()))?;
        let site = Site::parse(&site).with_context(|| format!("checking the site config {}", self.site.display()))?;
        let source: Arc<dyn Source> = match &self.repository {
            Some(directory) => Arc::new(DirectorySource::new(directory)),
            None => Arc::new(HttpsSource::new(&site.repository, &site.ca, Resolver::system()?)?),
        };
        let repository = Repository::load(source, &site, None).await.context("checking the metadata")?;
        let mut report = Report::new(&repository, self.warn_days);
        for file in repository.metadata.hosts.values() {
            report.check(host(&repository, file).await);
        }
        for file in repository.metadata.releases.values() {
            let manifest = manifest(&repository, file).await;
            let Some(manifest) = report.check(manifest) else { continue };
            for (what, payload) in payloads(&manifest) {
                let found = converge::check_seek_table(repository.source.as_ref(), payload, &Progress::default()).await;
                report.check(found.with_context(|| format!("{what} of {}", file.name)));
                report.payloads += 1;
            }
            if self.deep {
                report.check(self.every_block(&repository, &manifest).await.with_context(|| file.name.clone()));
            }
        }
        Ok(report)
    }

    /// Fetches all of a release's payloads, and checks each block as an installation does.
    async fn every_block(&self, repository: &Repository, manifest: &Manifest) -> Result<()> {
        let source = repository.source.as_ref();
        let (root, boot) = (manifest.root()?, &manifest.boot);
        let what = format!("{} {}", manifest.name, manifest.version);
        shown(&format!("{what}: root"), &root.data, async |progress| {
            blocks(source, &root.data, &root.hash_tree, root.root_hash, &root.salt.0, progress).await.map(drop)
        })
        .await?;
        for (name, artifact) in [("UKI", &boot.uki), ("boot loader", &boot.loader)] {
            shown(&format!("{what}: {name}"), &artifact.data, async |progress| file(source, artifact, progress).await)
                .await
                .with_context(|| name.to_owned())?;
        }
        Ok(())
    }
}

/// A host config: its bytes, its shape, and that its release is there.
async fn host(repository: &Repository, file: &TargetFile) -> Result<()> {
    let bytes = repository.fetch_host(file).await?;
    let host = Host::parse(&bytes).with_context(|| format!("reading {}", file.name))?;
    let known = repository.metadata.releases.contains_key(&host.release.target());
    anyhow::ensure!(known, "{} names the release {}, which the repository does not have", file.name, host.release);
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

fn payloads(manifest: &Manifest) -> Vec<(&'static str, &Payload)> {
    let boot = &manifest.boot;
    let roots = manifest.filesystems.iter().flat_map(|fs| [("root", &fs.data), ("root hash tree", &fs.hash_tree)]);
    let files = [
        ("UKI", &boot.uki.data),
        ("UKI hash tree", &boot.uki.hash_tree),
        ("boot loader", &boot.loader.data),
        ("boot loader hash tree", &boot.loader.hash_tree),
    ];
    roots.chain(files).collect()
}

/// Fetches tree and content; what comes back knows the content's digest.
async fn blocks(
    source: &dyn Source,
    data: &Payload,
    hash_tree: &Payload,
    root_hash: Digest,
    salt: &[u8],
    progress: &Progress,
) -> Result<Arc<Discard>> {
    let (store, count) = (MemoryStore::default(), data.content_size / BLOCK);
    let tree =
        converge::hash_tree(source, hash_tree, store, root_hash, salt.to_vec(), count, &Progress::default()).await?;
    let nowhere = Arc::new(Discard::new(data.content_size));
    converge::data(source, data, &Arc::new(tree), &Discard::region(&nowhere), progress).await?;
    Ok(nowhere)
}

async fn file(source: &dyn Source, artifact: &Artifact, progress: &Progress) -> Result<()> {
    let Artifact { data, hash_tree, root_hash, salt, size, sha256 } = artifact;
    let nowhere = blocks(source, data, hash_tree, *root_hash, &salt.0, progress).await?;
    let found = nowhere.digest(*size)?;
    anyhow::ensure!(found == *sha256, "its SHA-256 is {found}, but the manifest says {sha256}");
    Ok(())
}
