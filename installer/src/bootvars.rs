//! The firmware's boot entry for what was installed: one entry, found again by partition and path, placed by policy.
//!
//! Nothing here ends a run. `\EFI\BOOT\BOOTX64.EFI` always exists, so a firmware that takes no entry still boots.

pub mod choice;
pub mod load_option;
pub mod token;
pub mod variables;

use anyhow::{Context as _, Result, bail};
use metalstrap_release::host::BootOrder;
use serde::Serialize;

pub use load_option::{LoadOption, Origin, Partition};
pub(crate) use variables::EFIVARFS;
pub use variables::{Efivarfs, GLOBAL, SIGNED_ATTRIBUTES, Variables};

/// The boot loader's path on the ESP; `\EFI\BOOT\BOOTX64.EFI` is the same file for firmware that lost its variables.
pub const LOADER: &str = r"\EFI\systemd\systemd-bootx64.efi";

const BOOT_ORDER: &str = "BootOrder";
pub(crate) const BOOT_NEXT: &str = "BootNext";
const BOOT_CURRENT: &str = "BootCurrent";

/// What became of the boot entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootEntry {
    /// Its variable, as `Boot0003`; `None` if there is no entry that could be read back.
    pub name: Option<String>,
    /// What did not go as it should: each one sentence.
    pub warnings: Vec<String>,
}

/// Makes the entry, puts it into `BootOrder` and makes it the next boot, so that a hung jump becomes a boot from disk.
///
/// `title` is what the firmware's menu shows. Writes nothing that is already as it should be.
#[must_use]
pub fn install(variables: &dyn Variables, partition: &Partition, title: &str, policy: BootOrder) -> BootEntry {
    let mut warnings = Vec::new();
    let mut warn = |what: &str, error: &anyhow::Error| warnings.push(format!("{what}: {error:#}"));
    let number = match place(variables, partition, title) {
        Ok((number, None)) => number,
        Ok((number, Some(error))) => {
            warn("the boot entry for the installed OS stays as an earlier run has made it", &error);
            number
        }
        Err(error) => {
            warn("the firmware has no boot entry for the installed OS", &error);
            return BootEntry { name: None, warnings };
        }
    };
    if let Err(error) = remove_duplicates(variables, partition, number) {
        warn("an old boot entry for the same partition remains", &error);
    }
    if let Err(error) = order(variables, number, policy) {
        warn("the boot order is not as the host config wants it", &error);
    }
    if let Err(error) = write_checked(variables, BOOT_NEXT, &number.to_le_bytes()) {
        warn("the next boot is not from the installed disk", &error);
    }
    BootEntry { name: Some(name_of(number)), warnings }
}

/// Whether the firmware starts the entry next: as `BootNext` says, or else as the first of `BootOrder`. What cannot be read
/// does not say so.
#[must_use]
pub fn is_next(variables: &dyn Variables, entry: &BootEntry) -> bool {
    let next = match variables.read(BOOT_NEXT) {
        Ok(Some(bytes)) => bytes.try_into().ok().map(u16::from_le_bytes),
        Ok(None) => read_order(variables).ok().and_then(|order| order.first().copied()),
        Err(_) => None,
    };
    next.is_some_and(|number| entry.name == Some(name_of(number)))
}

/// Reuses the lowest own entry, else takes the lowest free number. One that is there starts the OS also where it cannot be
/// changed: then the error comes with its number.
fn place(variables: &dyn Variables, partition: &Partition, title: &str) -> Result<(u16, Option<anyhow::Error>)> {
    let option = LoadOption::new(title, partition, LOADER).and_then(|option| option.encode());
    let bytes = option.context("encoding the boot entry")?;
    let numbers = entries(variables)?;
    let number = match own(variables, &numbers, partition).first() {
        Some(&own) => own,
        None => (0..=u16::MAX).find(|number| !numbers.contains(number)).context("every boot entry number is taken")?,
    };
    match write_checked(variables, &name_of(number), &bytes) {
        Ok(()) => Ok((number, None)),
        Err(error) if own(variables, &[number], partition).contains(&number) => Ok((number, Some(error))),
        Err(error) => Err(error),
    }
}

fn remove_duplicates(variables: &dyn Variables, partition: &Partition, keep: u16) -> Result<()> {
    let others: Vec<u16> = own(variables, &entries(variables)?, partition);
    for number in others.into_iter().filter(|&number| number != keep) {
        // First out of the order: a number in it without an entry confuses some firmware.
        let order = read_order(variables)?;
        let without = without(&order, number, keep);
        if without != order {
            write_order(variables, &without)?;
        }
        variables.remove(&name_of(number))?;
    }
    Ok(())
}

/// The order without `gone`. `keep` gets its place if it has none: it starts the same.
fn without(order: &[u16], gone: u16, keep: u16) -> Vec<u16> {
    let place = order.iter().position(|&number| number == gone).filter(|_| !order.contains(&keep));
    let mut without: Vec<u16> = order.iter().copied().filter(|&number| number != gone).collect();
    if let Some(place) = place {
        without.insert(place, keep);
    }
    without
}

/// The numbers of all `Boot####` variables, ascending.
fn entries(variables: &dyn Variables) -> Result<Vec<u16>> {
    let number = |name: &str| {
        let digits = name.strip_prefix("Boot").filter(|digits| digits.len() == 4)?;
        let upper = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
        u16::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(upper))
    };
    let mut numbers: Vec<u16> = variables.names()?.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Those of `numbers` whose entries start our loader on our partition. An entry that cannot be read is not ours.
fn own(variables: &dyn Variables, numbers: &[u16], partition: &Partition) -> Vec<u16> {
    let is_own = |number: &u16| {
        let bytes = variables.read(&name_of(*number)).ok().flatten();
        let target = bytes.and_then(|bytes| LoadOption::parse(&bytes)).and_then(|option| option.target());
        target.is_some_and(|(guid, path)| guid == partition.guid && path.eq_ignore_ascii_case(LOADER))
    };
    numbers.iter().copied().filter(is_own).collect()
}

fn order(variables: &dyn Variables, number: u16, policy: BootOrder) -> Result<()> {
    let order = read_order(variables)?;
    let current = variables.read(BOOT_CURRENT)?.and_then(|bytes| bytes.try_into().ok().map(u16::from_le_bytes));
    let wanted = arrange(&order, number, policy, current, &|other| origin(variables, other));
    write_order(variables, &wanted)
}

/// Where the firmware gets what an entry starts. What cannot be read may be anything.
fn origin(variables: &dyn Variables, number: u16) -> Origin {
    let bytes = variables.read(&name_of(number)).ok().flatten();
    bytes.and_then(|bytes| LoadOption::parse(&bytes)).map_or(Origin::Unknown, |option| option.origin())
}

/// Where the entry goes. `current` is the entry this boot came from, which may be in no order (a one-time boot menu,
/// or firmware that names an entry that does not exist).
fn arrange(
    order: &[u16],
    number: u16,
    policy: BootOrder,
    current: Option<u16>,
    origin: &dyn Fn(u16) -> Origin,
) -> Vec<u16> {
    let mut others: Vec<u16> = order.iter().copied().filter(|&other| other != number).collect();
    let stays = order.contains(&number);
    let position = match policy {
        BootOrder::DiskFirst => 0,
        BootOrder::Leave if stays => return order.to_vec(),
        // This boot came from the disk: what to stay behind is unknown.
        BootOrder::NetworkFirst if current == Some(number) && stays => return order.to_vec(),
        BootOrder::NetworkFirst => behind_network(&others, current, origin),
        BootOrder::Leave => others.len(),
    };
    others.insert(position.min(others.len()), number);
    others
}

/// How many entries come before ours for the network to be first: up to the network's that this boot came from. A boot from
/// a USB stick or a BMC's virtual medium does not say which one that is, so all of the network's count. Firmware may know
/// the network by a name of its own, which tells nothing: an entry that this boot came from and that may be such a one is never
/// behind ours, and where no entry is seen to be the network's, any may be.
fn behind_network(others: &[u16], current: Option<u16>, origin: &dyn Fn(u16) -> Origin) -> usize {
    let behind_last = |counts: &dyn Fn(u16) -> bool| {
        others.iter().rposition(|&other| counts(other)).map(|position| position.saturating_add(1))
    };
    let behind_current = behind_last(&|other| Some(other) == current);
    let came_from = current.filter(|_| behind_current.is_some()).map(origin);
    if let (Some(position), Some(Origin::Network)) = (behind_current, came_from) {
        return position;
    }
    let unknown = behind_current.filter(|_| came_from == Some(Origin::Unknown));
    let networks = behind_last(&|other| origin(other) == Origin::Network);
    networks.map_or(others.len(), |networks| networks.max(unknown.unwrap_or(0)))
}

fn read_order(variables: &dyn Variables) -> Result<Vec<u16>> {
    let bytes = variables.read(BOOT_ORDER)?.unwrap_or_default();
    let (numbers, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        bail!("{BOOT_ORDER} has {} bytes, an odd number", bytes.len());
    }
    Ok(numbers.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect())
}

fn write_order(variables: &dyn Variables, order: &[u16]) -> Result<()> {
    let bytes: Vec<u8> = order.iter().flat_map(|number| number.to_le_bytes()).collect();
    write_checked(variables, BOOT_ORDER, &bytes)
}

/// Writes what is not there yet, and reads it back: some firmware answers success and keeps the old value.
pub(crate) fn write_checked(variables: &dyn Variables, name: &str, data: &[u8]) -> Result<()> {
    if variables.read(name)?.as_deref() == Some(data) {
        return Ok(());
    }
    variables.write(name, data)?;
    if variables.read(name)?.as_deref() != Some(data) {
        bail!("the firmware took the EFI variable {name}, but reading it gives something else");
    }
    Ok(())
}

fn name_of(number: u16) -> String {
    format!("Boot{number:04X}")
}

#[cfg(test)]
mod tests;
