//! The manifest's way to this machine: fetched, compared with the pinned digest, measured by the caller, then parsed.

use anyhow::Result;
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{MAX_BYTES, Manifest};
use metalstrap_release::site::Site;

use crate::failure::{Code, WithCode as _, coded};
use crate::fetch::Source;

/// Fetches the manifest that the site config pins.
///
/// # Errors
/// The source's, and a manifest that is another one.
pub async fn fetch(source: &dyn Source, site: &Site) -> Result<Vec<u8>> {
    let bytes = source.get(&site.manifest.path, MAX_BYTES).await?;
    let found = Digest::of(&bytes);
    if found != site.manifest.sha256 {
        let (path, pinned) = (&site.manifest.path, site.manifest.sha256);
        let text = format!("{path} of {} has SHA-256 {found}, but the site config pins {pinned}", source.describe());
        return Err(coded(Code::Manifest, text));
    }
    Ok(bytes)
}

/// Parses and checks it.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Manifest> {
    Manifest::parse(bytes).code(Code::Manifest, || "reading the manifest".to_owned())
}
