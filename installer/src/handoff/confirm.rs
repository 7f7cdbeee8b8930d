//! What makes the OS that a kexec led to say so: a unit for systemd, in credentials of which only the kexec's initrd knows
//! (systemd-debug-generator(8), with names for drop-ins since systemd 257). A boot from the disk does not have them, so that it
//! confirms nothing.
//!
//! Which form of a file the OS reads depends on its systemd: not encoded where it has the fault of issue 43621, as 257 to 261 have
//! it, encoded where it has the correction, which a distribution may backport. So it gets the unit in both forms, under two names,
//! and finds the other one unreadable (a warning of the generator in its journal). Of an OS that reads both the first one alone runs.
//!
//! When multi-user.target is reached, the unit removes the [`marker`](super::marker) and `BootNext`, and tells the event
//! `confirmed` where there is a report URL and the OS has curl. Nothing that comes from outside stands in the unit or in the
//! shell's words: it is in the environment, encoded (base64 of coreutils), and nothing is evaluated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::host::FileForm;
use metalstrap_release::site::Site;

use super::marker;
use crate::bootvars::{BOOT_NEXT, EFIVARFS, GLOBAL};
use crate::credentials::Sealed;
use crate::remembered::VENDOR;

/// The unit, for an OS that reads it not encoded, and for one that reads it encoded.
const UNITS: [(&str, FileForm); 2] =
    [("metalstrap-confirm", FileForm::Binary), ("metalstrap-confirm-encoded", FileForm::Base64)];
/// The directory of the one that has run, below `/run`: no other one runs then.
const RUNTIME: &str = "metalstrap-confirm";
/// The most bytes of CAs that are handed over: a text of the environment has at most 128 KiB (execve(2)).
const MAX_CA: usize = 64 << 10;

/// Where the OS tells that it is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportTo {
    url: String,
    ca: String,
    pins: Vec<String>,
}

impl ReportTo {
    /// The report URL, where curl of the OS reaches it by what may be handed over: a proxy's password and a client's key are
    /// not, and no list of CAs that is too long.
    #[must_use]
    pub fn of(site: &Site) -> Option<Self> {
        let url = site.report_url.clone()?;
        if site.proxy.is_some() || site.client.is_some() || site.ca.len() > MAX_CA {
            return None;
        }
        let pins = site.pins.iter().map(|pin| format!("sha256//{}", STANDARD.encode(pin.0))).collect();
        Some(Self { url, ca: site.ca.clone(), pins })
    }
}

/// What makes the OS confirm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The name of the credential.
    pub name: String,
    /// Its content.
    pub content: String,
    /// How it is written to its file.
    pub form: FileForm,
}

/// The credentials; none where those that the OS gets have taken the names. `event` is a line.
#[must_use]
pub fn units(taken: &[Sealed], to: Option<&ReportTo>, event: &str) -> Vec<Unit> {
    let [(first, _), _] = UNITS;
    let of = |(unit, form): (&str, FileForm)| {
        // Where both can be read, the second looks for the first one's directory when that has run.
        let after = if unit == first { String::new() } else { format!(" {first}.service") };
        // A drop-in with a name of its own is no other one's.
        let wanted = format!("systemd.unit-dropin.multi-user.target~{unit}");
        [
            Unit { name: format!("systemd.extra-unit.{unit}.service"), content: service(to, event, &after), form },
            Unit { name: wanted, content: format!("[Unit]\nWants={unit}.service\n"), form },
        ]
    };
    let all: Vec<Unit> = UNITS.into_iter().flat_map(of).collect();
    let is_taken = |unit: &Unit| taken.iter().any(|one| one.name == unit.name);
    if all.iter().any(is_taken) { Vec::new() } else { all }
}

fn service(to: Option<&ReportTo>, event: &str, after: &str) -> String {
    let none = ReportTo::default();
    let ReportTo { url, ca, pins } = to.unwrap_or(&none);
    let [event, url, ca] = [event, url.as_str(), ca.as_str()].map(|text| STANDARD.encode(text));
    let pins = pins.join(";");
    format!(
        "[Unit]\nDescription=Confirm the kexec into this OS\n\
         ConditionPathExists=!/etc/initrd-release\n\
         ConditionPathExists=!/run/{RUNTIME}\n\
         After=multi-user.target{after}\n\n\
         [Service]\nType=oneshot\nTimeoutStartSec=10min\nRuntimeDirectory={RUNTIME}\nRuntimeDirectoryPreserve=yes\n\
         Environment=\"EVENT={event}\" \"URL={url}\" \"CA={ca}\" \"PINS={pins}\"\n\
         ExecStart=-:/bin/sh -c '{} {TELL}'\n",
        clear_in(EFIVARFS)
    )
}

/// Removes the two variables; a file of one that is not the firmware's own is immutable until that is taken from it (Linux
/// `Documentation/filesystems/efivarfs.rst`), by e2fsprogs, or by systemd's own tool.
fn clear_in(directory: &str) -> String {
    let marker = marker::NAME;
    format!(
        "for f in {directory}/{marker}-{VENDOR} {directory}/{BOOT_NEXT}-{GLOBAL}; do \
         [ -e \"$f\" ] || continue; \
         chattr -i \"$f\" 2>/dev/null || echo \"h $f - - - - -i\" | systemd-tmpfiles --create -; \
         rm -f \"$f\"; done;"
    )
}

/// Posts the event as the installer posts its own (docs/events.md). The network may come later than all else: any error is tried
/// again, as long as the unit may take. A pin without a CA stands for the certificate, whoever has signed it.
const TELL: &str = "[ -n \"$URL\" ] && command -v curl >/dev/null && cd \"$RUNTIME_DIRECTORY\" || exit 0; \
    echo \"$EVENT\" | base64 -d >event; \
    set -- --silent --show-error --fail --globoff --max-time 60 --retry 50 --retry-delay 5 --retry-all-errors; \
    if [ -n \"$CA\" ]; then echo \"$CA\" | base64 -d >ca; set -- \"$@\" --cacert ca; fi; \
    if [ -n \"$PINS\" ]; then set -- \"$@\" --pinnedpubkey \"$PINS\"; [ -n \"$CA\" ] || set -- \"$@\" --insecure; fi; \
    exec curl \"$@\" --header \"Content-Type: application/x-ndjson\" --data-binary @event --url \"$(echo \"$URL\" | base64 -d)\"";

#[cfg(test)]
mod tests;
