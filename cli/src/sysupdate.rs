//! What systemd-sysupdate fetches: `sysupdate/NAME/` of a repository, with the releases of the OS NAME as files that it
//! understands, the list of them, and the transfer definitions that an image needs.
//!
//! Its systemd-pull reads gzip, xz and bzip2, and zstd only from systemd 258 on, so payloads will not do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::metadata::TargetFile;
use url::Url;

use crate::repository::Repository;

mod images;
mod sums;
mod transfers;

pub use images::Inputs;
use images::{Kind, is_of};
use sums::Sums;

/// Whether, and how.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "systemd-sysupdate")]
pub struct SysupdateArgs {
    /// Also lay the release out for systemd-sysupdate, in sysupdate/NAME of the repository; URL is where machines find the
    /// repository, and goes into the transfer definitions
    #[arg(long, value_name = "URL", conflicts_with = "stage")]
    sysupdate: Option<Url>,
    /// Sign the list of files with this key of gpg
    #[arg(long, value_name = "KEY", requires = "sysupdate")]
    sysupdate_key: Option<String>,
}

impl SysupdateArgs {
    /// Checks what can be checked before anything is published.
    ///
    /// # Errors
    /// The URL is none that systemd-sysupdate takes; or the list of files is signed, and would not be any more.
    pub fn check(&self, repository: &Path, name: &str) -> Result<()> {
        let Some(url) = &self.sysupdate else { return Ok(()) };
        ensure!(matches!(url.scheme(), "http" | "https"), "--sysupdate {url}: it is no http or https URL");
        let signature = repository.join(directory(name)).join(sums::SIGNATURE);
        ensure!(
            self.sysupdate_key.is_some() || !signature.exists(),
            "{} is there, so machines want the list signed: give --sysupdate-key, or remove that file",
            signature.display()
        );
        Ok(())
    }

    /// Lays out the release of `manifest`, if that is wanted, and takes away what is of no release any more. What is there
    /// and right is not written again. `releases` are those that the repository's metadata has.
    ///
    /// # Errors
    /// An input that cannot be read or is not what the manifest says; the repository cannot be written; gpg's words.
    pub fn publish(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        inputs: &Inputs<'_>,
        releases: &BTreeMap<String, TargetFile>,
    ) -> Result<()> {
        let Some(url) = &self.sysupdate else { return Ok(()) };
        let directory = directory(&manifest.name);
        let laying = || format!("laying {} {} out for systemd-sysupdate", manifest.name, manifest.version);
        repository.make(&directory).with_context(laying)?;
        let definitions = format!("{directory}/sysupdate.d");
        repository.make(&definitions).with_context(laying)?;
        for (file, text) in transfers::definitions(manifest, url, self.sysupdate_key.is_some()) {
            repository.put(&format!("{definitions}/{file}"), text.as_bytes()).with_context(laying)?;
        }
        let place = repository.directory().join(&directory);
        let mut sums = Sums::read(&place).with_context(laying)?;
        for kind in Kind::ALL {
            let name = kind.file_name(manifest)?;
            if !sums.is_sound(&place, &name) {
                let digest = images::write(repository, &directory, kind, manifest, inputs).with_context(laying)?;
                sums.set(name, digest);
            }
        }
        sums.retain(|file| releases.keys().any(|release| is_of(file, release)));
        sums.write(repository, &directory, self.sysupdate_key.as_deref()).with_context(laying)?;
        remove_others(&place, &manifest.name, &sums).with_context(laying)
    }
}

/// Where the files of an OS lie below a repository.
fn directory(name: &str) -> String {
    format!("sysupdate/{name}")
}

/// Removes images of the OS that the list does not name any more.
fn remove_others(place: &Path, name: &str, sums: &Sums) -> Result<()> {
    let clearing = || format!("clearing {}", place.display());
    for entry in fs::read_dir(place).with_context(clearing)? {
        let entry = entry.with_context(clearing)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with(&format!("{name}_")) && !sums.names(&file) {
            fs::remove_file(entry.path()).with_context(clearing)?;
        }
    }
    Ok(())
}
