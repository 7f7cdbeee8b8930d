//! Which disk, and why: exactly one must match the host config's rules, or nothing happens.

use std::fmt::Write as _;

use anyhow::Result;
use metalstrap_release::host::DiskSelector;

use crate::failure::{Code, coded};
use crate::inventory::DiskFacts;

/// The one disk of `disks` that the selector matches. `missing` says what may keep disks from being in the list; then
/// only a selector that knows its disk by serial or WWID counts, since any other might choose another one for want of it.
///
/// # Errors
/// [`Code::NoDisk`] if the list may not be complete and the selector needs it to be;
/// [`Code::NoDisk`] and [`Code::SeveralDisks`] with every disk and the rule that kept or dropped it;
/// [`Code::DiskInUse`] if the one is mounted, held or read-only: it is not passed over for another.
pub fn choose(disks: &[DiskFacts], selector: &DiskSelector, missing: &[String]) -> Result<DiskFacts> {
    if !missing.is_empty() && selector.serial.is_none() && selector.wwid.is_none() {
        let (why, hint) = (missing.join("; "), "name the disk by serial or wwid in the host config");
        return Err(coded(Code::NoDisk, format!("the list of disks may not be complete ({why}): {hint}")));
    }
    let judged: Vec<_> = disks.iter().map(|disk| (disk, dropped_by(disk, selector))).collect();
    let kept: Vec<_> = judged.iter().filter(|(_, reason)| reason.is_none()).map(|(disk, _)| *disk).collect();
    match kept.as_slice() {
        [disk] => usable(disk).cloned(),
        [] if disks.is_empty() => Err(coded(Code::NoDisk, "the machine has no disk")),
        [] => Err(coded(Code::NoDisk, listing("no disk matches", &judged, selector))),
        _ => Err(coded(Code::SeveralDisks, listing("several disks match", &judged, selector))),
    }
}

/// The disk itself, unless something keeps it from being written to.
///
/// # Errors
/// [`Code::DiskInUse`] if it is mounted, held or read-only.
pub fn usable(disk: &DiskFacts) -> Result<&DiskFacts> {
    if disk.read_only {
        return Err(coded(Code::DiskInUse, format!("disk {} is read-only", disk.describe())));
    }
    if !disk.used_by.is_empty() {
        return Err(coded(Code::DiskInUse, format!("disk {} is in use: {}", disk.describe(), disk.used_by.join(", "))));
    }
    Ok(disk)
}

/// The first rule that a disk does not keep to; `None` if it matches.
fn dropped_by(disk: &DiskFacts, selector: &DiskSelector) -> Option<String> {
    let found = &disk.identity;
    let texts = [
        ("serial", &selector.serial, found.serial.as_deref()),
        ("WWID", &selector.wwid, found.wwid.as_deref()),
        ("model", &selector.model, found.model.as_deref()),
        ("transport", &selector.transport, Some(disk.transport.as_str())),
    ];
    for (what, wanted, has) in texts {
        let Some(wanted) = wanted.as_deref().map(str::trim) else { continue };
        match has {
            Some(has) if has == wanted => {}
            Some(has) => return Some(format!("its {what} is {has}")),
            None => return Some(format!("it has no {what}")),
        }
    }
    if selector.min_size.is_some_and(|least| found.size < least)
        || selector.max_size.is_some_and(|most| found.size > most)
    {
        return Some(format!("it has {} bytes", found.size));
    }
    let named = selector.serial.is_some() || selector.wwid.is_some() || selector.transport.as_deref() == Some("usb");
    if !named && disk.transport == "usb" {
        return Some("it is on USB, and the rules name neither that nor its serial or WWID".to_owned());
    }
    if !named && disk.removable {
        return Some("it is removable, and the rules do not name its serial or WWID".to_owned());
    }
    if !matches!(disk.sector_size, 512 | 4096) {
        return Some(format!("its sectors have {} bytes, not 512 or 4096", disk.sector_size));
    }
    None
}

fn listing(verdict: &str, judged: &[(&DiskFacts, Option<String>)], selector: &DiskSelector) -> String {
    let mut text = format!("{verdict} {}:", rules(selector));
    for (n, (disk, reason)) in judged.iter().enumerate() {
        let (separator, found) = (if n == 0 { "" } else { ";" }, &disk.identity);
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let (serial, wwid, model) = (or_none(&found.serial), or_none(&found.wwid), or_none(&found.model));
        let verdict = match reason {
            Some(reason) => format!("dropped, since {reason}"),
            None => "matches".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{separator} {} (serial {serial}, WWID {wwid}, model {model}, {}, {} bytes) {verdict}",
            disk.name, disk.transport, found.size
        );
    }
    text
}

/// The selector in words.
fn rules(selector: &DiskSelector) -> String {
    let size = |size: &Option<u64>| size.map(|size| size.to_string());
    let rules = [
        ("serial", selector.serial.clone()),
        ("WWID", selector.wwid.clone()),
        ("model", selector.model.clone()),
        ("transport", selector.transport.clone()),
        ("at least bytes", size(&selector.min_size)),
        ("at most bytes", size(&selector.max_size)),
    ];
    let rules: Vec<_> = rules.into_iter().filter_map(|(what, value)| Some(format!("{what} {}", value?))).collect();
    if rules.is_empty() { "(no rules given)".to_owned() } else { format!("({})", rules.join(", ")) }
}

#[cfg(test)]
mod tests;
