//! The GUID partition table: reading it as the kernel does, destroying old ones, and committing the plan's.
//!
//! A table is two copies (UEFI specification 2.10, section 5.3): header and entries at the disk's start behind a
//! protective MBR, entries and header at its end. Firmware restores a bad copy from the good one, and Linux believes the
//! one at the end only with `gpt` on its command line. So a table is destroyed from its end to its start, since the old
//! system boots until the last moment and nothing brings back what is gone, and is written in the same order, since the
//! copy at the start, which everybody reads, has to be the last to appear.

mod clean;
mod image;
mod table;

use std::io;

use anyhow::{Context as _, Result};

use crate::disk::{Disk, Memory};
use crate::failure::{Code, WithCode as _};
use crate::plan::{Becomes, Plan, Wipe};

pub use image::Image;
pub(crate) use table::is_protective;
pub use table::{Entry, Table, read, read_backup};

/// Entries of our tables: the least that UEFI allows (16 KiB of them).
pub const ENTRIES: u32 = 128;

/// Zeroes are written in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// Bytes that the backup table takes at the end of a disk: the entries and the header's sector.
#[must_use]
pub fn backup_bytes(sector_size: u32) -> u64 {
    let sector = u64::from(sector_size);
    u64::from(ENTRIES) * 128 + sector
}

/// Bytes that the primary table takes at the start of a disk: protective MBR, header and entries.
#[must_use]
pub fn primary_bytes(sector_size: u32) -> u64 {
    backup_bytes(sector_size) + u64::from(sector_size)
}

/// Destroys what is on the disk as the plan says, with a flush after each of its steps, and checks that all of it is gone
/// and that nothing known is left. Where the plan has nothing to destroy, nothing is written.
///
/// # Errors
/// [`Code::DiskIo`]: the device's error; [`Code::NotClean`]: the disk still shows something afterwards.
pub fn invalidate(disk: &dyn Disk, plan: &Plan) -> Result<()> {
    wipe_and_check(disk, &plan.wipes)?;
    // Any other table stays, or stays for now.
    let is_whole = matches!(plan.existing, Becomes::Blank | Becomes::Wiped { .. });
    if is_whole && !plan.wipes.is_empty() { clean::whole(disk, plan) } else { Ok(()) }
}

/// Destroys what the plan has left for when the release is in its slot, and checks as [`invalidate`] does. The old table is
/// there until [`commit`] replaces it. Where the plan has left nothing, nothing is written.
///
/// # Errors
/// [`Code::DiskIo`]: the device's error; [`Code::NotClean`]: the disk still shows something afterwards.
pub fn clear_leftovers(disk: &dyn Disk, plan: &Plan) -> Result<()> {
    wipe_and_check(disk, &plan.leftovers)?;
    if plan.leftovers.is_empty() { Ok(()) } else { clean::partitions(disk, plan) }
}

/// Does the steps and reads what they wrote; nothing where there is none.
fn wipe_and_check(disk: &dyn Disk, steps: &[Wipe]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    wipe(disk, steps)?;
    disk.forget_cache().code(Code::DiskIo, || format!("checking that {} is clean", disk.describe()))?;
    clean::ranges(disk, steps)
}

/// Overwrites the ranges of each step with zeroes, with a flush after it.
///
/// # Errors
/// [`Code::DiskIo`]: the device's error.
pub fn wipe(disk: &dyn Disk, steps: &[Wipe]) -> Result<()> {
    for step in steps {
        for range in &step.ranges {
            zero(disk, range.start, range.size).code(Code::DiskIo, || format!("wiping {}", step.what))?;
        }
        disk.flush().code(Code::DiskIo, || format!("wiping {}", step.what))?;
    }
    Ok(())
}

fn zero(disk: &dyn Disk, start: u64, size: u64) -> io::Result<()> {
    let zeroes = vec![0; usize::try_from(PIECE.min(size)).map_err(io::Error::other)?];
    let mut done = 0;
    while done < size {
        let piece = usize::try_from(PIECE.min(size - done)).map_err(io::Error::other)?;
        disk.write_at(start + done, zeroes.get(..piece).unwrap_or_default())?;
        done += PIECE.min(size - done);
    }
    Ok(())
}

/// Whether the disk has the plan's table already: the protective MBR and both copies.
///
/// # Errors
/// The device's.
pub fn is_current(disk: &dyn Disk, plan: &Plan) -> io::Result<bool> {
    let wanted = plan.table();
    Ok(read(disk)?.is_some_and(|table| table == wanted) && read_backup(disk)?.is_some_and(|table| table == wanted))
}

/// Writes the plan's table: entries at the end, flush, header at the end, flush, then entries, header and protective MBR
/// at the start, flush. Where the copy at the end is all that is left of the table there, it goes last: until there is
/// another one, it is all that leads to the partitions. The plan's was laid out in memory and read back there before the first
/// byte. A disk that has it already is not written to.
///
/// # Errors
/// [`Code::DiskIo`]: the device's error.
pub fn commit(disk: &dyn Disk, plan: &Plan) -> Result<()> {
    let context = || format!("writing the partition table of {}", disk.describe());
    if is_current(disk, plan).code(Code::DiskIo, || format!("reading the partition table of {}", disk.describe()))? {
        return Ok(());
    }
    let wanted = plan.table();
    let image = Image::new(&wanted, disk.size(), disk.sector_size()).with_context(context)?;
    rehearse(&image, &wanted, disk).with_context(context)?;
    let only_backup = read(disk).and_then(|table| Ok(table.is_none() && read_backup(disk)?.is_some()));
    if only_backup.code(Code::DiskIo, context)? {
        image.write_primary(disk).code(Code::DiskIo, context)?;
        return image.write_backup(disk).code(Code::DiskIo, context);
    }
    image.write(disk).code(Code::DiskIo, context)
}

/// Writes the image to a disk in memory and reads it back by the rules that the real one will be read by.
fn rehearse(image: &Image, wanted: &Table, disk: &dyn Disk) -> Result<()> {
    let memory = Memory::new(disk.size(), disk.sector_size());
    image.write(&memory)?;
    let (primary, backup) = (read(&memory)?, read_backup(&memory)?);
    anyhow::ensure!(
        primary.as_ref() == Some(wanted) && backup.as_ref() == Some(wanted),
        "the table laid out in memory reads back as {primary:?} and {backup:?}"
    );
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
