//! What the ESP is to hold, and whether it can.

use anyhow::Result;
use metalstrap_release::manifest::Manifest;

use super::layout::EMPTY;
use super::{Partition, Plan, PlanDisk, Role};
use crate::boot_files::EspContents;
use crate::credentials::Sealed;
use crate::esp;
use crate::failure::{Code, coded};

impl Plan {
    /// Whether the ESP can hold what it is to hold.
    pub(super) fn check_esp(&self, disk: &PlanDisk, order: esp::Order<'_>, there: Option<&EspContents>) -> Result<()> {
        // Where there is a file system, it gets the note of intents if it has room for it.
        let intents: &[String] = if matches!(there, Some(EspContents::Volume(_))) { &[] } else { order.intents };
        esp::check(esp::Order { intents, ..order }, self.partition(Role::Esp)?.size, disk.sector_size)?;
        match there {
            Some(EspContents::Unusable { problem }) => Err(coded(Code::Esp, format!("disk {}: {problem}", disk.name))),
            Some(EspContents::Volume(files)) => esp::check_room(order, files, &self.names.removed, &disk.name),
            Some(EspContents::Absent) => self.check_others_empty(disk),
            Some(EspContents::Unmade) | None => Ok(()),
        }
    }

    /// An ESP with something that is no file system, on a disk that stays, gets a fresh one only where no other slot is filled.
    /// Else there was one, with files that are not ours to make anew.
    fn check_others_empty(&self, disk: &PlanDisk) -> Result<()> {
        let filled = self.partitions.iter().find(|Partition { role, entry }| {
            matches!(role, Role::Root { slot } if *slot != self.target) && entry.label != EMPTY
        });
        let Some(filled) = filled else { return Ok(()) };
        let (name, label) = (&disk.name, &filled.entry.label);
        let text = format!(
            "disk {name}: the EFI system partition has no file system that can be read, but {label:?} starts from it"
        );
        Err(coded(Code::Esp, text))
    }

    /// What the ESP is to hold.
    ///
    /// # Errors
    /// None that occur: the plan has an ESP.
    pub fn esp_order<'a>(&'a self, manifest: &'a Manifest, credentials: &'a [Sealed]) -> Result<esp::Order<'a>> {
        Ok(esp::Order {
            manifest,
            volume_id: self.volume_id()?,
            stays: self.existing.stays(),
            intents: &self.intents,
            renamed: &self.names.renamed,
            credentials,
        })
    }
}
