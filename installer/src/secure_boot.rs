//! Secure Boot: whether it lets the installed kernel be started by kexec, and the firmware's keys.

mod enrolment;
#[cfg(test)]
pub(crate) mod tests;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use metalstrap_release::manifest::Boot;

pub use enrolment::{Asked, DATABASE, Keys, doubt, enroll, missing};

/// Where below sysfs the firmware's file says whether it checks signatures (UEFI 2.10, section 3.3).
pub const SECURE_BOOT: &str = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Where below sysfs the kernel says how far it is locked down (kernel_lockdown(7)).
const LOCKDOWN: &str = "kernel/security/lockdown";

/// Whether Secure Boot is on, on the machine whose sysfs is at `sys`.
#[must_use]
pub fn is_on(sys: &Path) -> bool {
    // An EFI variable's file begins with four bytes of attributes.
    fs::read(sys.join(SECURE_BOOT)).is_ok_and(|bytes| bytes.get(4) == Some(&1))
}

/// Why the kernel of the machine whose sysfs is at `sys` would not take the installed one by kexec, if that is known before;
/// where it cannot be known whether it would, that is a reason too.
///
/// Locked down, it takes a kernel only with a signature by a key that it trusts (Linux `kernel/kexec_file.c`,
/// kimage_validate_signature; `arch/x86/kernel/kexec-bzimage64.c`): one that it was built with, or one of the firmware's or the
/// owner's. The release says which keys have signed, `/proc/keys` which the kernel has.
#[must_use]
pub fn obstacle(boot: &Boot, sys: &Path) -> Option<String> {
    obstacle_of(boot, sys, Path::new("/proc/keys"))
}

/// The same for the machine whose sysfs is at `sys`, and whose kernel lists its keys in the file `keys`.
fn obstacle_of(boot: &Boot, sys: &Path, keys: &Path) -> Option<String> {
    let level = match fs::read_to_string(sys.join(LOCKDOWN)) {
        Ok(text) => level(&text)?,
        // Of a kernel that knows no lockdown. But where Secure Boot is on, it may not have been found.
        Err(error) if error.kind() == ErrorKind::NotFound && !is_on(sys) => return None,
        Err(error) => return Some(format!("whether the kernel is locked down cannot be read: {error}")),
    };
    let Some(signed) = &boot.secure_boot else {
        return Some(format!(
            "the kernel is locked down ({level}), and the release does not say by whom its kernel is signed (`metalstrap \
             publish --secure-boot-certificate`)"
        ));
    };
    let keys = match fs::read_to_string(keys) {
        Ok(keys) => keys,
        Err(error) => {
            return Some(format!("the kernel is locked down ({level}), and its keys cannot be read: {error}"));
        }
    };
    let is_trusted = signed.kernel.iter().any(|certificate| has(&keys, &certificate.key_id));
    (!is_trusted).then(|| {
        format!("the kernel is locked down ({level}), and trusts none of the certificates that the installed one is signed by")
    })
}

/// How far the kernel is locked down, if it is: the word in brackets.
fn level(text: &str) -> Option<String> {
    let word = text.split_once('[')?.1.split_once(']')?.0;
    (word != "none").then(|| word.to_owned())
}

/// Whether a list in the form of `/proc/keys` has the key of a certificate: of type `asymmetri`, which is cut off, with a
/// description that ends with `key_id` (`crypto/asymmetric_keys/asymmetric_type.c`, asymmetric_key_describe).
fn has(keys: &str, key_id: &str) -> bool {
    let end = format!(": {key_id}: X509.");
    // Eight columns, of which the type is the last.
    keys.lines().any(|line| line.split_ascii_whitespace().nth(7) == Some("asymmetri") && line.contains(&end))
}
