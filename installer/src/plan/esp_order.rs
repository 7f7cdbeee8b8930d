//! What the ESP is to hold, and whether it can.

use anyhow::Result;
use metalstrap_release::manifest::Manifest;

use super::{Plan, PlanDisk, Role};
use crate::boot_files::EspContents;
use crate::credentials::Sealed;
use crate::esp;
use crate::failure::{Code, coded};

impl Plan {
    /// Whether the ESP can hold what it is to hold.
    pub(super) fn check_esp(&self, disk: &PlanDisk, order: esp::Order<'_>, there: Option<&EspContents>) -> Result<()> {
        esp::check(order, self.partition(Role::Esp)?.size, disk.sector_size)?;
        match there {
            Some(EspContents::Unusable { problem }) => Err(coded(Code::Esp, format!("disk {}: {problem}", disk.name))),
            Some(EspContents::Volume(files)) => esp::check_room(order, files, &self.names.removed, &disk.name),
            Some(EspContents::Absent) | None => Ok(()),
        }
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
