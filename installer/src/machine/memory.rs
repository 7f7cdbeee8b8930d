//! What the machine remembers from one installation to the next. A memory that fails is told, and is no failure.

use anyhow::Result;
use metalstrap_release::metadata::Versions;
use uuid::Uuid;

use super::Machine;
use crate::boot_files::INTENTS;
use crate::config::Place;
use crate::intents::Intents;
use crate::inventory::{Contents, DiskFacts};
use crate::plan::{PlanDisk, lasting_uuid};
use crate::remembered::nv::{self, NvMemory};
use crate::remembered::{Memory, image_uuid};

impl Machine<'_> {
    fn memory(&self) -> Memory {
        match self.place {
            Place::Netboot => Memory::of_machine(),
            Place::Ordinary { remembered, .. } => Memory::at(remembered.as_deref()),
        }
    }

    /// The memory of what has happened to a disk, and what the disk is called there. `None` if nothing tells it from the next one
    /// that looks like it.
    fn memory_of(&self, disk: &DiskFacts) -> Option<(Memory, Uuid)> {
        if disk.transport != "file" {
            return Some((self.memory(), lasting_uuid(&disk.identity)?));
        }
        Some(match self.place {
            Place::Ordinary { remembered: None, .. } => (Memory::of_image(&disk.path), Uuid::nil()),
            _ => (self.memory(), image_uuid(&disk.path)?),
        })
    }

    /// The versions of metadata that this machine has accepted before; one that cannot tell trusts like a new one.
    #[must_use]
    pub fn recall(&mut self) -> Vec<Versions> {
        let tell = self.tell;
        let known = self.memory().recall().unwrap_or_else(|error| {
            tell.warn("metadata", &format!("{error:#}; going on without them"));
            None
        });
        self.nv = self.ask_tpm().unwrap_or_else(|error| {
            tell.warn("metadata", &format!("{error:#}; going on without what the TPM remembers"));
            NvMemory::Closed
        });
        if self.nv == NvMemory::Damaged {
            tell.warn("metadata", "what the TPM remembers is damaged; going on without it");
        }
        known.into_iter().chain(self.nv.versions().cloned()).collect()
    }

    fn ask_tpm(&mut self) -> Result<NvMemory> {
        match self.measurer.tpm()? {
            Some(tpm) => NvMemory::open(tpm),
            None => Ok(NvMemory::Closed),
        }
    }

    /// Remembers them for the next installation. The TPM's state is that of [`Machine::recall`].
    pub fn remember(&mut self, versions: &Versions) {
        if let Err(error) = self.memory().remember(versions) {
            self.tell.warn("metadata", &format!("the versions of the metadata are not remembered: {error:#}"));
        }
        if let Err(error) = self.tell_tpm(versions) {
            self.tell.warn("metadata", &format!("the TPM does not remember the versions of the metadata: {error:#}"));
        }
    }

    fn tell_tpm(&mut self, versions: &Versions) -> Result<()> {
        if !self.nv.lacks(versions) {
            return Ok(());
        }
        match self.measurer.tpm()? {
            Some(tpm) => nv::remember(tpm, versions),
            None => Ok(()),
        }
    }

    /// What the plan has to know of a disk, with what has happened to it as far as the machine remembers.
    #[must_use]
    pub fn for_plan(&self, disk: &DiskFacts) -> PlanDisk {
        self.tell_dropped(disk);
        let Some((memory, lasting)) = self.memory_of(disk) else { return disk.for_plan() };
        let known = memory.intents().unwrap_or_else(|error| {
            self.tell.warn("plan", &format!("{error:#}; going on with what the disk knows of its intents"));
            Intents::default()
        });
        PlanDisk { remembered: known.of(lasting).to_vec(), ..disk.for_plan() }
    }

    /// Tells of lines in the ESP's file of intents that are none.
    fn tell_dropped(&self, disk: &DiskFacts) {
        let files = match &disk.contents {
            Contents::Gpt { esp, .. } => esp.files(),
            Contents::Blank | Contents::Foreign { .. } | Contents::Unreadable { .. } => None,
        };
        if let Some(number) = files.map(|files| files.dropped_intents).filter(|number| *number > 0) {
            let disk = disk.describe();
            let text = format!("lines of {INTENTS} on {disk} that are no intents do not count: {number}");
            self.tell.warn("plan", &text);
        }
    }

    /// Remembers that `intents` have happened to the disk; whether it does. One that nothing tells from others of its kind must
    /// know by itself.
    pub fn remember_intents<'i>(&self, disk: &DiskFacts, intents: impl Iterator<Item = &'i String>) -> bool {
        let Some((memory, lasting)) = self.memory_of(disk) else { return false };
        let remembered = memory.remember_intents(lasting, &intents.cloned().collect::<Vec<_>>());
        if let Err(error) = &remembered {
            let disk = disk.describe();
            self.tell.warn("plan", &format!("what has happened to {disk} is remembered by the disk only: {error:#}"));
        }
        remembered.is_ok()
    }

    /// Tells of intents that the ESP could not note, and who knows of them instead: the machine, if it `remembers`, or the GUID of
    /// the partition table.
    pub fn tell_unnoted(&self, unnoted: &[String], remembers: bool, guid_knows: impl Fn(&str) -> bool) {
        if unnoted.is_empty() {
            return;
        }
        let forgotten: Vec<&String> = unnoted.iter().filter(|intent| !remembers && !guid_knows(intent)).collect();
        let rest = match forgotten.as_slice() {
            [] if remembers => "this machine remembers it".to_owned(),
            [] => "until the next wipe the partition table says it".to_owned(),
            forgotten => format!("nothing else knows it of {forgotten:?}, which may happen again"),
        };
        let text = format!(
            "that {unnoted:?} happened is not noted on the EFI system partition, which has no room for that, or whose {INTENTS} is \
             damaged: {rest}"
        );
        self.tell.warn("esp", &text);
    }
}

#[cfg(test)]
mod tests;
