//! Is what was wiped gone? Writes that a drive has lost, or something that wrote again in between, show here and not when
//! the installed OS finds an old array or volume group.

use anyhow::Result;

use super::PIECE;
use crate::disk::Disk;
use crate::failure::{Code, WithCode as _, coded};
use crate::inventory::{self, Contents};
use crate::plan::{Area, Plan, Role, Wipe};

/// Reads every range that was wiped.
///
/// # Errors
/// [`Code::NotClean`] where one does not read as zeroes; [`Code::DiskIo`].
pub(super) fn ranges(disk: &dyn Disk, steps: &[Wipe]) -> Result<()> {
    for (step, range) in steps.iter().flat_map(|step| step.ranges.iter().map(move |range| (step, *range))) {
        let reading = || format!("checking that {} went", step.what);
        if is_zero(disk, range).code(Code::DiskIo, reading)? {
            continue;
        }
        let names = inventory::signatures(disk, range.start, range.size).code(Code::DiskIo, reading)?;
        let found = if names.is_empty() { "other bytes than zeroes".to_owned() } else { names.join(", ") };
        let (name, end) = (disk.describe(), range.range().end);
        let text =
            format!("disk {name} was wiped, but bytes {} to {end} ({}) still hold {found}", range.start, step.what);
        return Err(coded(Code::NotClean, text));
    }
    Ok(())
}

/// Looks for tables and signatures on the disk as a whole and in the plan's partitions.
///
/// # Errors
/// [`Code::NotClean`] where there is one; [`Code::DiskIo`].
pub(super) fn whole(disk: &dyn Disk, plan: &Plan) -> Result<()> {
    let name = disk.describe();
    match inventory::inspect(disk).code(Code::DiskIo, || format!("checking that {name} is clean"))? {
        Contents::Blank => partitions(disk, plan),
        rest => Err(coded(Code::NotClean, format!("disk {name} was wiped, but still holds {rest}"))),
    }
}

/// Looks for signatures in the plan's partitions and in the free space. The target slot is not looked at: what an earlier run
/// has written there may be right, and every block of it is checked later.
///
/// # Errors
/// [`Code::NotClean`] where there is one; [`Code::DiskIo`].
pub(super) fn partitions(disk: &dyn Disk, plan: &Plan) -> Result<()> {
    let name = disk.describe();
    let probing = || format!("checking that {name} is clean");
    let holds = |role: Role| match role {
        Role::Esp => false,
        Role::Root { slot } | Role::RootVerity { slot } => slot == plan.target,
        Role::Data { kept, .. } => kept,
    };
    let partitions = plan.partitions.iter().filter(|partition| !holds(partition.role));
    let areas = partitions.map(|p| (p.role.to_string(), Area::of(&p.entry)));
    for (what, area) in areas.chain([("the free space".to_owned(), plan.free)]) {
        let names = inventory::signatures(disk, area.start, area.size).code(Code::DiskIo, probing)?;
        if !names.is_empty() {
            let text = format!("disk {name} was wiped, but where {what} begins is still {}", names.join(", "));
            return Err(coded(Code::NotClean, text));
        }
    }
    Ok(())
}

fn is_zero(disk: &dyn Disk, range: Area) -> std::io::Result<bool> {
    let mut piece = vec![0; usize::try_from(PIECE.min(range.size)).map_err(std::io::Error::other)?];
    let (mut start, end) = (range.start, range.range().end);
    while start < end {
        piece.truncate(usize::try_from(end - start).unwrap_or(usize::MAX));
        disk.read_at(start, &mut piece)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        start += u64::try_from(piece.len()).map_err(std::io::Error::other)?;
    }
    Ok(true)
}
