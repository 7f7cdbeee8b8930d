//! A drive that an erasure of ours left locked when the power failed: it gives no data, so that there is nothing to plan with
//! before it is unlocked.

use anyhow::Result;

use super::ata::Security;
use super::{DriveOpener, out_of_reach, refusal};
use crate::disk::Disk;
use crate::failure::{Code, WithCode as _};
use crate::inventory::DiskFacts;

/// Unlocks the drive behind `disk`, which cannot be read, if it is an ATA drive that is locked, and takes the password away.
/// Says whether it did. No data is written.
///
/// # Errors
/// [`Code::CannotErase`]: it is locked, and not by an erasure of ours, or it takes no password now.
pub fn unlock(disk: &dyn Disk, facts: &DiskFacts, open: &DriveOpener) -> Result<bool> {
    if facts.nvme.is_some() || out_of_reach(facts).is_some() {
        return Ok(false);
    }
    let asking = || format!("asking {} whether it is locked", facts.describe());
    let Some(drive) = open(disk).code(Code::CannotErase, asking)? else { return Ok(false) };
    // What takes no ATA command has no such lock.
    let Ok(found) = Security::ask(drive.as_ref()) else { return Ok(false) };
    if !found.is_locked() {
        return Ok(false);
    }
    let unlocked = found.reclaimed(drive.as_ref()).code(Code::CannotErase, asking)?;
    unlocked.methods().map_err(|reason| refusal(facts, &reason))?;
    Ok(true)
}
