//! Which disk, and why: exactly one must match the host config's rules, or nothing happens.

use std::fmt::Write as _;

use anyhow::Result;
use metalstrap_release::host::{DiskSelector, Existing, Host, Mode, Sizes, is_like};

use crate::failure::{Code, coded};
use crate::inventory::{Contents, DiskFacts};
use crate::plan::{ESP_TYPE, Plan};

/// The one disk of `disks` that the selector matches. `missing` says what may keep disks from being in the list; then
/// only a selector that knows its disk by serial, WWID or port counts, since any other might choose another one for want of it.
///
/// # Errors
/// With every disk and the rule that kept or dropped it: [`Code::NoDisk`] if the list may not be complete and the selector
/// needs it to be, or if none is left, and [`Code::SeveralDisks`];
/// [`Code::DiskInUse`] if the one is read-only, or in use and not to be wiped: it is not passed over for another.
pub fn choose(
    disks: &[DiskFacts],
    selector: &DiskSelector,
    missing: &[String],
    existing: Existing,
) -> Result<DiskFacts> {
    let judged: Vec<_> = disks.iter().map(|disk| (disk, dropped_by(disk, selector))).collect();
    if !missing.is_empty() && !selector.names_one() {
        let (why, hint) = (missing.join("; "), "name the disk by serial, wwid or by_path in the host config");
        let text = format!("the list of disks may not be complete ({why}): {hint}");
        let found = if disks.is_empty() { "no disk was found".to_owned() } else { listing("found", &judged, selector) };
        return Err(coded(Code::NoDisk, format!("{text}; {found}")));
    }
    let kept: Vec<_> = judged.iter().filter(|(_, reason)| reason.is_none()).map(|(disk, _)| *disk).collect();
    match kept.as_slice() {
        [disk] => usable(disk, existing).cloned(),
        [] if disks.is_empty() => Err(coded(Code::NoDisk, "the machine has no disk")),
        [] => Err(coded(Code::NoDisk, listing("no disk matches", &judged, selector))),
        _ => Err(coded(Code::SeveralDisks, listing("several disks match", &judged, selector))),
    }
}

/// Warnings of EFI system partitions on other disks than the one that was chosen: firmware may start from those.
#[must_use]
pub fn foreign_esps(disks: &[DiskFacts], chosen: &DiskFacts) -> Vec<String> {
    let has_esp = |disk: &&DiskFacts| match &disk.contents {
        Contents::Gpt { table, .. } => table.partitions.iter().any(|entry| entry.type_guid == ESP_TYPE),
        Contents::Blank | Contents::Foreign { .. } | Contents::Unreadable { .. } => false,
    };
    let others = disks.iter().filter(|disk| disk.name != chosen.name).filter(has_esp);
    let warning = |disk: &DiskFacts| {
        format!("disk {} has an EFI system partition too: firmware may start what is there", disk.describe())
    };
    others.map(warning).collect()
}

/// What may go of a disk that is in use: a repair needs nothing of it to go.
#[must_use]
pub fn may_go(host: &Host) -> Existing {
    if host.mode == Mode::Repair { Existing::Refuse } else { host.existing }
}

/// Whether what holds the disk may go: the host config permits wiping it, and that is what the plan does.
#[must_use]
pub fn may_free(host: &Host, plan: &Plan) -> bool {
    may_go(host) == Existing::Wipe && !plan.existing.stays()
}

/// The disk itself, unless something keeps it from being written to. Where everything on it may go, so may what holds it,
/// if [`crate::holders`] can take it down.
///
/// # Errors
/// [`Code::DiskInUse`] if it is read-only, or in use and not to be wiped.
pub fn usable(disk: &DiskFacts, existing: Existing) -> Result<&DiskFacts> {
    if disk.read_only {
        return Err(coded(Code::DiskInUse, format!("disk {} is read-only", disk.describe())));
    }
    if !disk.used_by.is_empty() && existing != Existing::Wipe {
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
        ("by-path name", &selector.by_path, disk.by_path.as_deref()),
        ("model", &selector.model, found.model.as_deref()),
        ("transport", &selector.transport, Some(disk.transport.as_str())),
    ];
    for (what, wanted, has) in texts {
        let Some(wanted) = wanted.as_deref().map(str::trim) else { continue };
        let is_right = |has: &str| if what == "model" { is_like(has, wanted) } else { has == wanted };
        match has {
            Some(has) if is_right(has) => {}
            Some(has) => return Some(format!("its {what} is {has}")),
            None => return Some(format!("it has no {what}")),
        }
    }
    // The host config's check has parsed it: what cannot be parsed matches nothing.
    let fits = |rule: &str| Sizes::parse(rule).is_ok_and(|sizes| sizes.contains(found.size));
    if selector.size.as_deref().is_some_and(|rule| !fits(rule)) {
        return Some(format!("it has {} bytes", found.size));
    }
    if selector.rotational.is_some_and(|wanted| wanted != disk.rotational) {
        return Some(if disk.rotational { "it spins" } else { "it does not spin" }.to_owned());
    }
    if selector.sector_size.is_some_and(|wanted| wanted != disk.sector_size) {
        return Some(format!("its sectors have {} bytes", disk.sector_size));
    }
    unfit(disk, selector)
}

/// Why a disk is not taken although the rules leave it.
fn unfit(disk: &DiskFacts, selector: &DiskSelector) -> Option<String> {
    let names_usb = selector.transport.as_deref() == Some("usb");
    if disk.transport == "usb" && !selector.names_one() && !names_usb {
        return Some("it is on USB, and the rules name neither that nor its serial, WWID or port".to_owned());
    }
    if disk.removable && !selector.names_one() && !(names_usb && disk.transport == "usb") {
        return Some("it is removable, and the rules do not name its serial, WWID or port".to_owned());
    }
    let odd = !matches!(disk.sector_size, 512 | 4096);
    odd.then(|| format!("its sectors have {} bytes, not 512 or 4096", disk.sector_size))
}

fn listing(verdict: &str, judged: &[(&DiskFacts, Option<String>)], selector: &DiskSelector) -> String {
    let rules = rules(selector);
    let mut text = match rules.as_str() {
        "" => format!("{verdict} (no rules given):"),
        rules => format!("{verdict} ({rules}):"),
    };
    for (n, (disk, reason)) in judged.iter().enumerate() {
        let (separator, found) = (if n == 0 { "" } else { ";" }, &disk.identity);
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let (serial, wwid, model) = (or_none(&found.serial), or_none(&found.wwid), or_none(&found.model));
        let port = disk.by_path.as_deref().unwrap_or("no by-path name");
        let verdict = match reason {
            Some(reason) => format!("dropped, since {reason}"),
            None if rules.is_empty() => "kept, since no rule drops it".to_owned(),
            None => format!("kept by {rules}"),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{separator} {} (serial {serial}, WWID {wwid}, model {model}, {port}, {}, {} bytes) {verdict}",
            disk.name, disk.transport, found.size
        );
    }
    text
}

/// The selector in words; nothing if it has no rule.
fn rules(selector: &DiskSelector) -> String {
    let rules = [
        ("serial", selector.serial.clone()),
        ("WWID", selector.wwid.clone()),
        ("by-path name", selector.by_path.clone()),
        ("model", selector.model.clone()),
        ("transport", selector.transport.clone()),
        ("size", selector.size.clone()),
        ("rotational", selector.rotational.map(|spins| spins.to_string())),
        ("sector size", selector.sector_size.map(|bytes| bytes.to_string())),
    ];
    let rules: Vec<_> = rules.into_iter().filter_map(|(what, value)| Some(format!("{what} {}", value?))).collect();
    rules.join(", ")
}

#[cfg(test)]
mod tests;
