//! What the machine remembers from one installation to the next. A memory that fails is told, and is no failure.

use metalstrap_release::metadata::Versions;

use super::Machine;
use crate::config::Place;
use crate::intents::Intents;
use crate::inventory::DiskFacts;
use crate::plan::{PlanDisk, lasting_uuid};
use crate::remembered::Memory;

impl Machine<'_> {
    fn memory(&self) -> Memory {
        match self.place {
            Place::Netboot => Memory::of_machine(),
            Place::Ordinary { remembered, .. } => Memory::File(remembered.clone()),
        }
    }

    /// The versions of metadata that this machine has accepted before; one that cannot tell trusts like a new one.
    #[must_use]
    pub fn recall(&self) -> Vec<Versions> {
        let known = self.memory().recall().unwrap_or_else(|error| {
            self.tell.warn("metadata", &format!("{error:#}; going on without them"));
            None
        });
        known.into_iter().collect()
    }

    /// Remembers them for the next installation.
    pub fn remember(&self, versions: &Versions) {
        if let Err(error) = self.memory().remember(versions) {
            self.tell.warn("metadata", &format!("the versions of the metadata are not remembered: {error:#}"));
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
