//! Secure Boot's keys on their way from files into a host config.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::host::{Host, SecureBootKeys};
use metalstrap_release::secure_boot::MAX_UPDATE_BYTES;

use super::encode;

/// The host config with the keys of `directory`, which has the files that systemd-boot looks for in `\loader\keys\NAME`.
///
/// # Errors
/// It is no host config; a file is missing, or cannot be read.
pub fn add(config: &[u8], directory: &Path) -> Result<Vec<u8>> {
    let mut host = Host::parse(config).context("checking the host config")?;
    let [pk, kek, db] = ["PK.auth", "KEK.auth", "db.auth"].map(|name| read(&directory.join(name)));
    host.secure_boot_keys = Some(SecureBootKeys::new(&pk?, &kek?, &db?));
    encode(&host)
}

/// What is longer than an update may be is refused with the host config.
fn read(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("reading Secure Boot's keys from {}", path.display());
    let mut bytes = Vec::new();
    let most = MAX_UPDATE_BYTES as u64 + 1;
    File::open(path).with_context(reading)?.take(most).read_to_end(&mut bytes).with_context(reading)?;
    Ok(bytes)
}
