//! Secure Boot's keys on their way from files into a host config.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use metalstrap_installer::bootvars::{GLOBAL, SIGNED_ATTRIBUTES};
use metalstrap_installer::secure_boot::DATABASE;
use metalstrap_release::host::{Host, SecureBootKeys};
use metalstrap_release::secure_boot::{MAX_UPDATE_BYTES, Update, certificates};
use uuid::Uuid;

use super::encode;

/// DER of the object identifier signedData (1.2.840.113549.1.7.2), by which PKCS #7 names what its ContentInfo holds.
const SIGNED_DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

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

/// Whether firmware in setup mode would take the keys of this host config, as openssl judges: their signatures must be for these
/// variables and attributes, and the platform key's must be its own. Machines would find that out when their disks are written.
///
/// # Errors
/// Names the key that firmware would refuse.
pub fn check(host: &Host) -> Result<()> {
    let Some(keys) = &host.secure_boot_keys else { return Ok(()) };
    for (name, update) in keys.updates().map_err(anyhow::Error::msg)? {
        let namespace = if name == "db" { DATABASE } else { GLOBAL };
        let is_signed =
            is_signed(name, namespace, &update).with_context(|| format!("checking Secure Boot's {name}"))?;
        ensure!(
            is_signed,
            "firmware would refuse the host config's secure_boot_keys: {name} is not signed {}as this variable with the attributes \
             NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS (sbvarsign signs for all attributes unless --attr says which)",
            if name == "PK" { "by its own key " } else { "" }
        );
    }
    Ok(())
}

/// Whether the update's signature is for this variable, as UEFI 2.10, 8.2.2 says what is signed. By whom matters for the platform key
/// alone: in setup mode firmware asks nothing of the others.
fn is_signed(name: &str, namespace: &str, update: &Update) -> Result<bool> {
    let namespace: Uuid = namespace.parse().context("parsing the namespace of its variable")?;
    let directory = tempfile::tempdir().context("making a directory for openssl")?;
    let path = |name: &str| directory.path().join(name);
    let mut signed: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    signed.extend_from_slice(&namespace.to_bytes_le());
    signed.extend_from_slice(&SIGNED_ATTRIBUTES.to_le_bytes());
    signed.extend_from_slice(update.time());
    signed.extend_from_slice(update.content());
    let write = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).context("writing what openssl reads");
    write("signed", &signed)?;
    write("signature", &content_info(update.signature())?)?;
    let mut openssl = Command::new("openssl");
    openssl.args(["smime", "-verify", "-noverify", "-binary", "-inform", "DER", "-out", "/dev/null", "-in"]);
    openssl.arg(path("signature")).arg("-content").arg(path("signed"));
    if name == "PK" {
        let found = certificates(update.content())?;
        let own = found.first().context("it has no certificate")?;
        write("own", pem::encode(&pem::Pem::new("CERTIFICATE", *own)).as_bytes())?;
        openssl.arg("-nointern").arg("-certfile").arg(path("own"));
    }
    let output = openssl.output().context("running openssl")?;
    Ok(output.status.success())
}

/// SignedData in the ContentInfo that openssl reads (RFC 2315, 7). UEFI has it without; what has it already stays as it is.
fn content_info(signature: &[u8]) -> Result<Vec<u8>> {
    // Behind the sequence's tag and its length of two bytes.
    if signature.get(4..).is_some_and(|rest| rest.starts_with(&SIGNED_DATA)) {
        return Ok(signature.to_owned());
    }
    sequence(0x30, &[&SIGNED_DATA, sequence(0xa0, signature)?.as_slice()].concat())
}

/// These bytes behind a tag and their length, which takes two bytes.
fn sequence(tag: u8, content: &[u8]) -> Result<Vec<u8>> {
    let [high, low] = u16::try_from(content.len()).context("the signature is too long")?.to_be_bytes();
    Ok([&[tag, 0x82, high, low], content].concat())
}

/// What is longer than an update may be is refused with the host config.
fn read(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("reading Secure Boot's keys from {}", path.display());
    let mut bytes = Vec::new();
    let most = MAX_UPDATE_BYTES as u64 + 1;
    File::open(path).with_context(reading)?.take(most).read_to_end(&mut bytes).with_context(reading)?;
    Ok(bytes)
}
