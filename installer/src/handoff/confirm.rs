//! What makes the OS that a kexec led to say so: a unit for systemd, in credentials of which only the kexec's initrd knows
//! (systemd-debug-generator(8), since systemd 256). A boot from the disk does not have them, so that it confirms nothing.
//!
//! When multi-user.target is reached, the unit removes the [`marker`](super::marker) and `BootNext`, and tells the event
//! `confirmed` where there is a report URL and the OS has curl. Nothing that comes from outside stands in the unit or in the
//! shell's words: it is in the environment, encoded (base64 of coreutils), and nothing is evaluated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::site::Site;

use super::marker;
use crate::bootvars::{BOOT_NEXT, EFIVARFS, GLOBAL};
use crate::credentials::Sealed;
use crate::remembered::VENDOR;

/// The unit.
const UNIT: &str = "metalstrap-confirm.service";
/// Units of which any may start ours, which waits for multi-user.target anyhow: a host config may have a drop-in for one.
const STARTED_BY: [&str; 3] = ["multi-user.target", "basic.target", "sysinit.target"];
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

/// The names and contents of the credentials; none where those that the OS gets have taken the names. `event` is a line.
#[must_use]
pub fn units(taken: &[Sealed], to: Option<&ReportTo>, event: &str) -> Vec<(String, String)> {
    let free = |name: &String| taken.iter().all(|one| one.name != *name);
    let unit = Some(format!("systemd.extra-unit.{UNIT}")).filter(free);
    let drop_in = STARTED_BY.iter().map(|by| format!("systemd.unit-dropin.{by}")).find(free);
    let (Some(unit), Some(drop_in)) = (unit, drop_in) else { return Vec::new() };
    vec![(unit, service(to, event)), (drop_in, format!("[Unit]\nWants={UNIT}\n"))]
}

fn service(to: Option<&ReportTo>, event: &str) -> String {
    let none = ReportTo::default();
    let ReportTo { url, ca, pins } = to.unwrap_or(&none);
    let [event, url, ca] = [event, url.as_str(), ca.as_str()].map(|text| STANDARD.encode(text));
    let pins = pins.join(";");
    format!(
        "[Unit]\nDescription=Confirm the kexec into this OS\n\
         ConditionPathExists=!/etc/initrd-release\n\
         After=multi-user.target network-online.target\n\n\
         [Service]\nType=oneshot\nTimeoutStartSec=10min\nRuntimeDirectory=metalstrap-confirm\n\
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

/// Posts the event as the installer posts its own (docs/events.md). A pin without a CA stands for the certificate, whoever has
/// signed it.
const TELL: &str = "[ -n \"$URL\" ] && command -v curl >/dev/null && cd \"$RUNTIME_DIRECTORY\" || exit 0; \
    echo \"$EVENT\" | base64 -d >event; \
    set -- --silent --show-error --fail --globoff --max-time 60 --retry 5 --retry-connrefused; \
    if [ -n \"$CA\" ]; then echo \"$CA\" | base64 -d >ca; set -- \"$@\" --cacert ca; fi; \
    if [ -n \"$PINS\" ]; then set -- \"$@\" --pinnedpubkey \"$PINS\"; [ -n \"$CA\" ] || set -- \"$@\" --insecure; fi; \
    exec curl \"$@\" --header \"Content-Type: application/x-ndjson\" --data-binary @event --url \"$(echo \"$URL\" | base64 -d)\"";

#[cfg(test)]
mod tests;
