//! What the initrd of the installed kernel has beside its own, as cpio archives behind it: what systemd-stub hands over of the
//! UKI's sections (`generate_embedded_initrds` in systemd's src/boot/stub.c), and the event logs.
//!
//! systemd has no place from which it takes a log of measurements. So a unit that comes with it copies it, before systemd measures,
//! to where systemd goes on with it.

mod on_disk;

use std::path::Path;

use metalstrap_release::pcr::Signatures;
use metalstrap_release::uki::HANDED;

use super::Parts;
use crate::credentials::pack;
use crate::eventlog::{self, STICKY};

/// Signed policies for PCR 11.
const SIGNATURES: &str = ".pcrsig";
/// Where the stub puts what it hands over.
const DIRECTORY: (&str, u32) = (".extra", 0o040_555);
const FILE: u32 = 0o100_444;

/// No log is larger that is handed over; firmware has some tens of KiB for its own.
const MOST_LOG: u64 = 1 << 20;
/// Ours, which root alone reads.
const LOGS: (&str, u32) = (".extra/metalstrap", 0o040_500);
const LOG_FILE: u32 = 0o100_400;
/// With the mode that systemd gives its own log, which the copy keeps: with the sticky bit where a record may be missing.
const OWN_LOG: u32 = 0o100_600;

/// The unit that copies the logs, and what makes systemd start it.
const IMPORT_DIRECTORIES: [(&str, u32); 4] = [
    ("etc", 0o040_755),
    ("etc/systemd", 0o040_755),
    ("etc/systemd/system", 0o040_755),
    ("etc/systemd/system/sysinit.target.d", 0o040_755),
];
const UNIT: &[u8] = b"[Unit]
Description=Event logs of the installer
DefaultDependencies=no
ConditionPathExists=/.extra/metalstrap/tpm2-measure.log
Conflicts=shutdown.target
Before=sysinit.target shutdown.target cryptsetup-pre.target systemd-pcrphase-initrd.service
Before=systemd-tpm2-setup-early.service systemd-pcrosseparator.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-systemd-tmpfiles --create /etc/metalstrap-event-log.conf
ExecStart=-systemd-tmpfiles --create /etc/metalstrap-event-log-copy.conf
";
const WANTS: &[u8] = b"[Unit]
Wants=metalstrap-event-log.service
";
const COPIES: &[u8] = b"d /run/log/systemd 0755 root root -
C- /run/log/systemd/tpm2-measure.log - root root - /.extra/metalstrap/tpm2-measure.log
d /run/metalstrap 0755 root root -
C- /run/metalstrap/binary_bios_measurements 0400 root root - /.extra/metalstrap/binary_bios_measurements
";

/// Why the UKI's own signatures were left out.
#[derive(Debug, thiserror::Error)]
#[error("the UKI's .pcrsig is not in the form of systemd-measure: what the release has beside it is handed over alone")]
pub struct LeftOut(#[source] serde_json::Error);

/// The archives of the UKI's sections, as the stub makes them; the file of signatures also has those of the release.
#[must_use]
pub fn of_sections(parts: &Parts, published: &Signatures) -> (Vec<Vec<u8>>, Option<LeftOut>) {
    let (mut archives, mut left_out) = (Vec::new(), None);
    for (section, file) in HANDED {
        let own = parts.handed.iter().find(|(name, _)| *name == section).map(|(_, content)| content.as_slice());
        let content = if section == SIGNATURES {
            let (merged, problem) = merged(own, published);
            left_out = problem;
            merged
        } else {
            own.map(<[u8]>::to_vec)
        };
        if let Some(content) = content {
            let path = format!("{}/{file}", DIRECTORY.0);
            archives.push(pack(&[DIRECTORY], &[(path.as_str(), FILE, content.as_slice())]));
        }
    }
    (archives, left_out)
}

/// The UKI's own signatures and those of the release as one file. What has nothing to be added stays as it is.
fn merged(own: Option<&[u8]>, published: &Signatures) -> (Option<Vec<u8>>, Option<LeftOut>) {
    let Some(own) = own else { return (encoded(published), None) };
    if *published == Signatures::default() {
        return (Some(own.to_vec()), None);
    }
    match Signatures::from_section(own) {
        Ok(mut all) => {
            all.add(published.clone());
            (encoded(&all), None)
        }
        Err(error) => (encoded(published), Some(LeftOut(error))),
    }
}

/// As a file; `None` where there is nothing in it.
fn encoded(signatures: &Signatures) -> Option<Vec<u8>> {
    // Texts and numbers: every one has a JSON form.
    serde_json::to_vec(signatures).ok().filter(|_| *signatures != Signatures::default())
}

/// The archive of the unit that copies the logs to where systemd goes on with them, and of what copies them to the disk: always the
/// same bytes.
#[must_use]
pub fn importer() -> Vec<u8> {
    let on_disk = on_disk::files();
    let mut files = vec![
        ("etc/metalstrap-event-log.conf", FILE, COPIES),
        ("etc/systemd/system/metalstrap-event-log.service", FILE, UNIT),
        ("etc/systemd/system/sysinit.target.d/metalstrap-event-log.conf", FILE, WANTS),
    ];
    files.extend(on_disk.iter().map(|(path, content)| (*path, FILE, content.as_bytes())));
    pack(&IMPORT_DIRECTORIES, &files)
}

/// The archive of the logs: what the installer has measured, which may be `incomplete`, and what the firmware has, if the kernel has
/// it at `firmware`; and why that was left out.
#[must_use]
pub fn logs(own: &str, incomplete: bool, firmware: &Path) -> (Vec<u8>, Option<anyhow::Error>) {
    let (firmware, left_out) = match eventlog::firmware::read(firmware, MOST_LOG) {
        Ok(log) => (log, None),
        Err(error) => (None, Some(error)),
    };
    let mode = if incomplete { OWN_LOG | STICKY } else { OWN_LOG };
    let mut files = vec![(".extra/metalstrap/tpm2-measure.log", mode, own.as_bytes())];
    files.extend(firmware.as_deref().map(|log| (".extra/metalstrap/binary_bios_measurements", LOG_FILE, log)));
    (pack(&[DIRECTORY, LOGS], &files), left_out)
}

#[cfg(test)]
mod tests;
