//! The repository as this machine may believe it: its metadata judged, then the host config and the manifest that the
//! metadata vouches for.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use metalstrap_release::allowed::{self, Allowed};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Groups, Host, HostKey, HostPlace, Identity, ReleaseName, groups};
use metalstrap_release::manifest::{self, MAX_SIGNATURES_BYTES, Manifest, Pcr11};
use metalstrap_release::metadata::{
    Anchor, BoxError, Finding, Metadata, MetadataError, MetadataSource, TargetFile, TrustedRoot, Versions,
};
use metalstrap_release::pcr::Signatures;
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

/// A host config, or the list of groups, as fetched: measured in this form, before it is parsed.
#[derive(Debug, Clone)]
pub struct HostBytes {
    bytes: Vec<u8>,
    place: HostPlace,
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
    /// Fetches and judges the metadata from the site config's root on; `known` is what this machine has accepted before, as each
    /// of its memories has it.
    ///
    /// # Errors
    /// The source's; [`Code::Metadata`], [`Code::MetadataExpired`] and [`Code::MetadataRollback`].
    pub async fn load(source: Arc<dyn Source>, site: &Site, known: &[Versions]) -> Result<Self> {
        let root = TrustedRoot::parse(&site.root).code(Code::SiteConfig, || "reading the trusted root".to_owned())?;
        let scratch = tempfile::tempdir().context("making a directory for the metadata")?;
        let files = Arc::new(Files { source: Arc::clone(&source), failure: Mutex::default() });
        let anchor = Anchor { root: &root, known, now: clock::now() };
        let metadata =
            TrustedRoot::load(Arc::<Files>::clone(&files), scratch.path(), anchor).await.map_err(|error| {
                let own = files.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                match (&error, own) {
                    (MetadataError::Source(_), Some(own)) => own,
                    (MetadataError::Expired { .. }, _) => {
                        let text = format!("{}: {error}{}", source.describe(), clock::basis());
                        coded(Code::MetadataExpired, text)
                    }
                    _ => coded(code(&error), format!("{}: {error}", source.describe())),
                }
            })?;
        Ok(Self { source, metadata })
    }

    /// Where there is something that may be the host config of a machine with these keys, in the order in which it counts.
    #[must_use]
    pub fn host_places(&self, keys: &[HostKey]) -> Vec<HostPlace> {
        let mut places = HostPlace::in_order(keys);
        places.retain(|place| self.metadata.hosts.contains_key(&place.target()));
        places
    }

    /// Fetches what stands at one of these places.
    ///
    /// # Errors
    /// [`Code::HostConfig`] if its bytes are not those that the metadata names.
    pub async fn host_bytes(&self, place: &HostPlace) -> Result<HostBytes> {
        let name = place.target();
        let Some(file) = self.metadata.hosts.get(&name) else {
            return Err(coded(Code::HostConfig, format!("{} has no {name}", self.source.describe())));
        };
        Ok(HostBytes { bytes: self.fetch_host(file).await?, place: place.clone() })
    }

    /// The error for a machine with these keys that is nowhere.
    #[must_use]
    pub fn no_host(&self, keys: &[HostKey]) -> anyhow::Error {
        let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let groups = self.metadata.hosts.contains_key(groups::TARGET);
        let groups = if groups { ", and the machine is in none of its groups" } else { "" };
        let text = format!("{} has no host config for {}{groups}", self.source.describe(), names.join(", "));
        coded(Code::HostConfig, text)
    }

    /// Fetches the host config `file`.
    ///
    /// # Errors
    /// [`Code::HostConfig`] if its bytes are not those that the metadata names.
    pub async fn fetch_host(&self, file: &TargetFile) -> Result<Vec<u8>> {
        self.target(file, host::MAX_BYTES, Code::HostConfig).await
    }

    /// Fetches the list of the releases that host configs may name, if there is one.
    ///
    /// # Errors
    /// [`Code::ReleaseNotAllowed`] if its bytes are not those that the metadata names.
    pub async fn allowed_bytes(&self) -> Result<Option<Vec<u8>>> {
        match &self.metadata.allowed {
            Some(file) => self.target(file, allowed::MAX_BYTES, Code::ReleaseNotAllowed).await.map(Some),
            None => Ok(None),
        }
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

    /// What it is called in the log of measurements.
    #[must_use]
    pub fn measured_as(&self) -> &'static str {
        match self.place {
            HostPlace::Key(_) => "host-config",
            HostPlace::Groups => "host-groups",
        }
    }

    /// Parses and checks it: the host config, and what it was found by. `None` if the machine is in none of the groups.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(&self, machine: &Identity) -> Result<Option<(Host, String)>> {
        let reading = || format!("reading {}", self.place.target());
        match &self.place {
            HostPlace::Key(key) => {
                let host = Host::parse(&self.bytes).code(Code::HostConfig, reading)?;
                Ok(Some((host, key.to_string())))
            }
            HostPlace::Groups => {
                let groups = Groups::parse(&self.bytes).code(Code::HostConfig, reading)?;
                Ok(groups.of(machine).map(|group| (group.config.clone(), format!("group {}", group.name))))
            }
        }
    }
}

/// Whether the list of allowed releases has the one that a host config names, which was found by `found_by`.
///
/// # Errors
/// [`Code::ReleaseNotAllowed`]: names the host config, the release and the list; or what is wrong with the list.
pub fn check_allowed(list: &[u8], found_by: &str, release: &ReleaseName) -> Result<()> {
    let list = Allowed::parse(list).code(Code::ReleaseNotAllowed, || format!("reading {}", allowed::TARGET))?;
    let checked = list.check(&format!("the host config {found_by}"), release);
    checked.map_err(|error| coded(Code::ReleaseNotAllowed, error.to_string()))
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

/// Fetches the signed policies for PCR 11 of a release; none where its manifest names no file of them.
///
/// # Errors
/// [`Code::Corrupt`] if its bytes are not those that the manifest names, [`Code::Manifest`] if they are no such file.
pub async fn signatures(source: &dyn Source, pcr11: &Pcr11) -> Result<Signatures> {
    let (Some(path), Some(sha256)) = (pcr11.signatures_path(), pcr11.signatures) else {
        return Ok(Signatures::default());
    };
    let bytes = source.get(&path, MAX_SIGNATURES_BYTES).await?;
    let (found, of) = (Digest::of(&bytes), format!("{path} of {}", source.describe()));
    if found != sha256 {
        return Err(coded(Code::Corrupt, format!("{of} has SHA-256 {found}, but the manifest says {sha256}")));
    }
    serde_json::from_slice(&bytes).code(Code::Manifest, || format!("reading {of}"))
}

#[cfg(test)]
mod tests {
    use metalstrap_release::manifest::Predictions;

    use super::*;
    use crate::failure::code_of;
    use crate::fetch::DirectorySource;

    #[tokio::test]
    async fn signatures_are_those_that_the_manifest_names() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("payloads")).unwrap();
        let source = DirectorySource::new(directory.path());
        let get = async |named: &[u8], bytes: &[u8]| {
            let (phases, sections) = (Predictions::new(&[]).unwrap(), Vec::new());
            let pcr11 = Pcr11 { phases, sections, signatures: Some(Digest::of(named)) };
            std::fs::write(directory.path().join(pcr11.signatures_path().unwrap()), bytes).unwrap();
            signatures(&source, &pcr11).await
        };
        let pol = Digest::of(b"policy");
        let good = format!(r#"{{"sha256": [{{"pcrs": [11], "pkfp": "{pol}", "pol": "{pol}", "sig": "AA=="}}]}}"#);
        let found = get(good.as_bytes(), good.as_bytes()).await.unwrap();
        assert_eq!(found.sha256.iter().map(|one| one.pol).collect::<Vec<_>>(), [pol]);
        let place = directory.path().display();
        let (wanted, other) = (Digest::of(good.as_bytes()), Digest::of(b"{}"));
        let error = get(good.as_bytes(), b"{}").await.unwrap_err();
        assert_eq!(code_of(&error), Code::Corrupt);
        let of = format!("payloads/{wanted}.json of {place}");
        assert_eq!(error.to_string(), format!("{of} has SHA-256 {other}, but the manifest says {wanted}"));
        let error = get(b"[1]", b"[1]").await.unwrap_err();
        assert_eq!(code_of(&error), Code::Manifest);
        let large = vec![b' '; MAX_SIGNATURES_BYTES + 1];
        let error = get(&large, &large).await.unwrap_err();
        assert!(format!("{error:#}").ends_with(": it has more than 1048576 bytes"), "{error:#}");
        let none = Pcr11 { phases: Predictions::new(&[]).unwrap(), sections: Vec::new(), signatures: None };
        assert_eq!(signatures(&source, &none).await.unwrap(), Signatures::default());
    }

    #[test]
    fn a_machine_gets_what_its_group_says_or_looks_on() {
        let bytes = |text: &str| HostBytes { bytes: text.as_bytes().to_vec(), place: HostPlace::Groups };
        let list = r#"{"format": 1, "groups": [{"name": "web", "match": {"serial": "7*"},
            "config": {"format": 1, "release": {"name": "os", "version": "2"}}}]}"#;
        let machine = |serial: &str| Identity { serial: Some(serial.to_owned()), ..Identity::default() };
        let (host, found_by) = bytes(list).parse(&machine("7XK")).unwrap().unwrap();
        assert_eq!((host.release.to_string().as_str(), found_by.as_str()), ("os 2", "group web"));
        assert_eq!(bytes(list).parse(&machine("8")).unwrap(), None);
        assert_eq!(bytes(list).parse(&Identity::default()).unwrap(), None);
        let error = bytes("{}").parse(&machine("7")).unwrap_err();
        assert_eq!(code_of(&error), Code::HostConfig);
        assert!(format!("{error:#}").starts_with("reading host-groups.json: the list of host groups is not valid: "));
    }
}
