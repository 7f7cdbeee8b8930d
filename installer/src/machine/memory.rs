//! What the machine remembers from one installation to the next. A memory that fails is told, and is no failure.

use anyhow::Result;
use metalstrap_release::metadata::Versions;

use super::Machine;
use crate::config::Place;
use crate::intents::Intents;
use crate::inventory::DiskFacts;
use crate::plan::{PlanDisk, lasting_uuid};
use crate::remembered::Memory;
use crate::remembered::nv::{self, NvMemory};

impl Machine<'_> {
    fn memory(&self) -> Memory {
        match self.place {
            Place::Netboot => Memory::of_machine(),
            Place::Ordinary { remembered, .. } => Memory::File(remembered.clone()),
        }
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
        let Some(lasting) = lasting_uuid(&disk.identity) else { return disk.for_plan() };
        let known = self.memory().intents().unwrap_or_else(|error| {
            self.tell.warn("plan", &format!("{error:#}; going on with what the disk knows of its intents"));
            Intents::default()
        });
        PlanDisk { remembered: known.of(lasting).to_vec(), ..disk.for_plan() }
    }

    /// Remembers that `intents` have happened to the disk. One that nothing tells from others of its kind must know by itself.
    pub fn remember_intents<'i>(&self, disk: &DiskFacts, intents: impl Iterator<Item = &'i String>) {
        let (Some(lasting), intents) = (lasting_uuid(&disk.identity), intents.cloned().collect::<Vec<_>>()) else {
            return;
        };
        if let Err(error) = self.memory().remember_intents(lasting, &intents) {
            let disk = disk.describe();
            self.tell.warn("plan", &format!("what has happened to {disk} is remembered by the disk only: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests;
