//! The machine's disk: which one it is, what holds it, and how it becomes ours.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::host::{Erase, Existing, Host, Mode};

use super::Machine;
use crate::config::Place;
use crate::disk::Disk;
use crate::erase::{self, Eraser};
use crate::holders;
use crate::inventory::{self, Contents, DiskFacts};
use crate::plan::Plan;
use crate::stages::Locked;
use crate::target;

impl Machine<'_> {
    /// The disk to install to: by the host config's selector, or the one that the person named.
    ///
    /// # Errors
    /// Not exactly one, or it is in use and may not be wiped.
    pub fn choose_disk(&self, host: &Host) -> Result<DiskFacts> {
        match self.place {
            Place::Netboot => {
                let disks = inventory::disks(Path::new("/sys"))?;
                let chosen = target::choose(&disks, &host.disk, &self.missing, target::may_go(host))?;
                target::foreign_esps(&disks, &chosen).iter().for_each(|text| self.tell.warn("disk", text));
                Ok(chosen)
            }
            Place::Ordinary { disk, sector_size, .. } => {
                let facts = inventory::disk_at(&inventory::Roots::default(), disk, *sector_size)?;
                target::usable(&facts, target::may_go(host)).cloned()
            }
        }
    }

    /// Unlocks the disk that was chosen if it cannot be read because a secure erasure of ours was interrupted, and the host
    /// config wants one. There is nothing to plan with before; no data is written.
    ///
    /// # Errors
    /// The drive is locked, and stays so; or somebody has the disk.
    pub fn unlock(&self, host: &Host, facts: DiskFacts) -> Result<DiskFacts> {
        let erases = host.mode == Mode::Install && host.existing == Existing::Wipe && host.erase == Erase::Secure;
        let unreadable = matches!(facts.contents, Contents::Unreadable { .. });
        if !erases || !unreadable || !facts.used_by.is_empty() {
            return Ok(facts);
        }
        let held = facts.hold(Path::new("/sys"))?;
        if !erase::unlock(held.as_ref(), &facts, &self.seams.drive)? {
            return Ok(facts);
        }
        let text = format!("disk {} was locked by an erasure that was interrupted: it is unlocked", facts.describe());
        self.tell.warn("disk", &text);
        Ok(facts.looked_at_again(held.as_ref()))
    }

    /// Tells what will be taken down for the plan. Where the plan wipes nothing, nothing may hold the disk.
    ///
    /// # Errors
    /// [`Code::DiskInUse`](crate::failure::Code::DiskInUse): something holds it that may not be taken down, or cannot.
    pub fn check_holders(&self, host: &Host, plan: &Plan, facts: &DiskFacts) -> Result<()> {
        if !target::may_free(host, plan) {
            return target::usable(facts, Existing::Keep).map(|_| ());
        }
        for holder in holders::of(&inventory::Roots::default(), facts)? {
            self.tell.say(&format!("to be taken down, since it holds the disk: {holder}"));
        }
        Ok(())
    }

    /// Takes down what holds the disk that was chosen, where the plan wipes it.
    ///
    /// # Errors
    /// [`Code::DiskInUse`](crate::failure::Code::DiskInUse): something cannot be taken down, or is back.
    pub fn free_disk(&self, host: &Host, plan: &Plan, facts: &DiskFacts) -> Result<()> {
        if !target::may_free(host, plan) {
            return Ok(());
        }
        holders::take_down(&inventory::Roots::default(), facts, self.seams.acts.as_ref(), self.tell)
    }

    /// How the disk will be erased; `None` if it will not.
    ///
    /// # Errors
    /// [`Code::CannotErase`](crate::failure::Code::CannotErase): it cannot be as the host config wants.
    pub fn eraser(&self, locked: &Locked, facts: &DiskFacts) -> Result<Option<Eraser>> {
        locked.eraser(facts, &self.seams.drive, self.tell)
    }

    /// The disk that the person named, whoever uses it.
    ///
    /// # Errors
    /// It is no disk, or cannot be read.
    pub fn look_at_disk(&self) -> Result<DiskFacts> {
        match self.place {
            Place::Netboot => anyhow::bail!("no disk was named"),
            Place::Ordinary { disk, sector_size, .. } => {
                inventory::disk_at(&inventory::Roots::default(), disk, *sector_size)
            }
        }
    }

    /// Locks the disk that was chosen.
    ///
    /// # Errors
    /// Somebody else has it, or it is not what it was when the plan was made.
    pub fn lock_disk(&self, facts: &DiskFacts) -> Result<Arc<dyn Disk>> {
        (self.seams.open)(facts)
    }
}
