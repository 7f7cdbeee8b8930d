//! What a disk that boots says of itself.

use anyhow::{Context as _, Result};

use super::Bootable;
use crate::bootvars;
use crate::converge::Tally;
use crate::disk::Region;
use crate::plan::Role;

impl Bootable {
    /// What it took to bring the root file system, its hash tree and what is on the ESP to their places.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = self.at.tally;
        tally += self.esp.tally;
        tally
    }

    /// Whether the GUID of the table says that `intent` has happened.
    #[must_use]
    pub fn guid_knows(&self, intent: &str) -> bool {
        self.at.at.0.plan.guid_knows(intent)
    }

    /// The ESP: the whole partition.
    ///
    /// # Errors
    /// None that occur: the plan has an ESP.
    pub fn esp_region(&self) -> Result<Region> {
        self.at.at.0.region(Role::Esp)
    }

    /// The ESP as the firmware's boot entry names it.
    ///
    /// # Errors
    /// None that occur: the plan has an ESP.
    pub fn boot_partition(&self) -> Result<bootvars::Partition> {
        let locked = &self.at.at.0;
        let entry = locked.plan.partition(Role::Esp)?;
        let lba = |bytes: u64| bytes.checked_div(u64::from(locked.plan.sector_size)).context("a sector of no size");
        let (start_lba, size_lba) = (lba(entry.start)?, lba(entry.size)?);
        Ok(bootvars::Partition { number: entry.index, start_lba, size_lba, guid: entry.uuid })
    }
}
