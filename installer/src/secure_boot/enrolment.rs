//! The keys of the host config in the firmware's variables, which takes them from anyone in setup mode (UEFI 2.10, 32.3).

use anyhow::{Context as _, Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::SecureBootKeys;
use metalstrap_release::manifest::{Boot, Certificate, SecureBoot};
use metalstrap_release::secure_boot::{Malformed, Update, certificates};

use crate::bootvars::Variables;
use crate::failure::{Code, WithCode as _, coded};

/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, the namespace of `db` (UEFI 2.10, 32.6.1).
pub const DATABASE: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";
/// The variable with the certificates by which must be signed what is started.
const DB: &str = "db";

/// The firmware's variables for Secure Boot, whose writes are signed updates.
#[derive(Debug)]
pub struct Keys<'a> {
    /// PK, KEK and SetupMode.
    pub global: &'a dyn Variables,
    /// db.
    pub database: &'a dyn Variables,
}

/// A variable's name, and the update that it is to have.
pub type Asked = (&'static str, Update);

impl Keys<'_> {
    fn of(&self, name: &str) -> &dyn Variables {
        if name == DB { self.database } else { self.global }
    }

    fn holds(&self, (name, update): &Asked) -> Result<bool> {
        Ok(self.of(name).read(name)?.as_deref() == Some(update.content()))
    }
}

/// The updates of `keys` that the firmware lacks, in the order in which it takes them. Writes nothing.
///
/// # Errors
/// [`Code::SecureBoot`]: the firmware would not take them, or would not start the release with them.
pub fn missing(firmware: &Keys<'_>, keys: &SecureBootKeys, boot: &Boot) -> Result<Vec<Asked>> {
    let asked = keys.updates().map_err(|problem| coded(Code::HostConfig, format!("secure_boot_keys {problem}")))?;
    let [(_, db), ..] = &asked;
    check_release(db, boot)?;
    let find = || -> Result<(Vec<Asked>, Option<Vec<u8>>)> {
        let mut missing = Vec::new();
        for one in asked {
            if !firmware.holds(&one)? {
                missing.push(one);
            }
        }
        Ok((missing, firmware.global.read("SetupMode")?))
    };
    let (missing, mode) = find().code(Code::SecureBoot, || "looking at the firmware's keys".to_owned())?;
    if missing.is_empty() {
        return Ok(missing);
    }
    match mode.as_deref() {
        Some([1]) => Ok(missing),
        Some(_) => {
            let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
            let text = "the firmware is not in setup mode, and does not have the keys of the host config";
            Err(coded(Code::SecureBoot, format!("{text}: its {} differs", names.join(", "))))
        }
        None => {
            Err(coded(Code::SecureBoot, "the host config has keys for Secure Boot, which this firmware does not know"))
        }
    }
}

/// Whether firmware with this `db` would start the release.
fn check_release(db: &Update, boot: &Boot) -> Result<()> {
    let Some(signed) = &boot.secure_boot else {
        let text = "the host config has keys for Secure Boot, but the release does not say by whom it is signed (`metalstrap \
                    publish --secure-boot-certificate`): with these keys the firmware might not start it";
        return Err(coded(Code::SecureBoot, text));
    };
    let part = unsigned_part(db.content(), signed).context("reading db of the host config")?;
    part.map_or(Ok(()), |part| {
        let text = format!(
            "the release's {part} is signed by none of the certificates in db of the host config's secure_boot_keys: with these \
             keys the firmware would not start it"
        );
        Err(coded(Code::SecureBoot, text))
    })
}

/// Why the firmware, with the keys that it has, may not start the release, as far as that is known. It is no more than a doubt: an
/// entry of `db` may vouch for a signature in other ways than by being the certificate that `publish` was given.
#[must_use]
pub fn doubt(firmware: &Keys<'_>, boot: &Boot) -> Option<String> {
    let is_on = firmware.global.read("SecureBoot").ok().flatten()? == [1];
    if !is_on {
        return None;
    }
    let Some(signed) = &boot.secure_boot else {
        let text =
            "Secure Boot is on, and the release does not say by whom it is signed: the firmware may not start it";
        return Some(text.to_owned());
    };
    let db = firmware.database.read(DB).ok().flatten().unwrap_or_default();
    let part = unsigned_part(&db, signed).ok().flatten()?;
    Some(format!(
        "Secure Boot is on, and the release's {part} is signed by none of the certificates in the firmware's db: it may not start it"
    ))
}

/// What of the release is signed by none of the certificates in the lists `db`, if there is something.
fn unsigned_part(db: &[u8], signed: &SecureBoot) -> Result<Option<&'static str>, Malformed> {
    let trusted: Vec<Digest> = certificates(db)?.into_iter().map(Digest::of).collect();
    let is_trusted = |all: &[Certificate]| all.iter().any(|certificate| trusted.contains(&certificate.sha256));
    let parts = [("boot loader", &signed.loader), ("UKI", &signed.uki)];
    Ok(parts.into_iter().find(|(_, signers)| !is_trusted(signers)).map(|(part, _)| part))
}

/// Gives the firmware the updates that it lacks, and reads each back.
///
/// # Errors
/// [`Code::SecureBoot`]. As long as the platform key is not there, the firmware starts what it started before.
pub fn enroll(firmware: &Keys<'_>, missing: &[Asked]) -> Result<()> {
    for one in missing {
        let (name, update) = one;
        let write = || -> Result<()> {
            firmware.of(name).write(name, update.bytes())?;
            if !firmware.holds(one)? {
                bail!("the firmware took the EFI variable {name}, but reading it gives something else");
            }
            Ok(())
        };
        write().code(Code::SecureBoot, || format!("giving the firmware {name}"))?;
    }
    Ok(())
}
