//! The plan: what will be done to the disk, as data, before anything is done. A pure function of what was found, the
//! manifest and the host config: no random numbers, no clock, so that the same facts give the same plan, and a run that
//! was interrupted finds its own work again.

mod data;
mod discards;
mod esp_order;
mod explain;
mod layout;
mod partition;
mod reuse;
mod settle;
mod sizes;
mod wipes;
mod writes;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Serialize;
use uuid::Uuid;

use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Erase, Host};
use metalstrap_release::manifest::Manifest;

use crate::credentials::{self, Listed};
use crate::disk::{Disk, Identity, Region};
use crate::gpt::{Entry, Table};
use crate::handoff::Decision;
use crate::inventory::Contents;
use crate::progress::Progress;

pub use layout::{ESP_TYPE, lasting_uuid};
pub use partition::{Area, Partition, Role};
pub use reuse::{Holds, Names, SeedArea};
pub use wipes::Wipe;
pub use writes::Write;

/// What the plan has to know about the disk.
#[derive(Debug, Clone)]
pub struct PlanDisk {
    /// How the disk is called in messages; no part of the plan, since kernel names change.
    pub name: String,
    /// What the disk is known by.
    pub identity: Identity,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// What is on it.
    pub contents: Contents,
    /// The intents that have happened to it as far as the machine remembers, the newest last.
    pub remembered: Vec<String>,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Format of the plan's JSON: 1.
    pub format: u32,
    /// What gets installed.
    pub release: Release,
    /// The disk.
    pub disk: Identity,
    /// Its logical sector size in bytes.
    pub sector_size: u32,
    /// GUID of the partition table.
    pub disk_guid: Uuid,
    /// What becomes of what is on the disk.
    pub existing: Becomes,
    /// What is done against the old content before the wiping.
    pub erase: Erase,
    /// The slot that gets the release: `a` to `h`.
    pub target: char,
    /// The release in another slot that boots meanwhile, and afterwards if this one does not.
    pub fallback: Option<String>,
    /// What becomes of the names of UKIs on an ESP that stays.
    pub names: Names,
    /// The intents that the disk will remember, the newest last.
    pub intents: Vec<String>,
    /// The credentials that the ESP will have for the OS. What is in them is not told.
    pub credentials: Vec<Listed>,
    /// Our partitions, by index.
    pub partitions: Vec<Partition>,
    /// Partitions that the installed OS has made and that stay as they are.
    pub kept: Vec<Entry>,
    /// What stays free for the OS's own partitions; on a disk that is ours already they may be in it.
    pub free: Area,
    /// What is overwritten with zeroes first, in this order, with a flush after each step.
    pub wipes: Vec<Wipe>,
    /// What the drive is told to be of no use when the old table is gone. Nothing relies on it.
    pub discards: Vec<Area>,
    /// Where blocks of the release may be found on the disk, beside their own place: they are copied from there.
    pub seeds: Vec<SeedArea>,
    /// What is written then.
    pub writes: Vec<Write>,
    /// What is never written to: partitions that stay as they are.
    pub protects: Vec<Write>,
    /// What is overwritten with zeroes when the release is in its slot, before the table is written.
    pub leftovers: Vec<Wipe>,
    /// How the installer is left; absent where it is an ordinary command, which ends as any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handoff: Option<Decision>,
}

/// Which release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Release {
    /// Name of the OS.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Root hash of its root file system.
    pub root_hash: Digest,
}

/// What becomes of what is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Becomes {
    /// There is nothing.
    Blank,
    /// It holds the release, or what there is of it: it stays as it is but for what is not as it should be.
    Kept,
    /// It has our layout: the release goes into one of its slots, all else stays.
    Updated {
        /// The label of what the slot holds now.
        from: String,
    },
    /// It has the same slots: the release goes into one of them, the rest is destroyed. The old table stays until the new
    /// one is written, so that an interrupted run finds its slot again.
    Replaced {
        /// What it was.
        what: String,
    },
    /// It is destroyed.
    Wiped {
        /// What it was.
        what: String,
    },
}

impl Becomes {
    /// Whether there is something that stays, so that nothing is destroyed but what the release takes the place of.
    #[must_use]
    pub fn stays(&self) -> bool {
        matches!(self, Self::Kept | Self::Updated { .. })
    }
}

impl Plan {
    /// Plans the installation of `manifest`'s release to `disk`, as `site` permits.
    ///
    /// # Errors
    /// By its [`Code`](crate::failure::Code): `DiskTooSmall` if the layout does not fit, or the boot files not the ESP; `Manifest`
    /// if their hash trees are too large; `DiskNotBlank` if there is something on the disk that may not go, or that our table cannot name; `NotInstalled` if
    /// what is to be repaired is not there; `Esp` if the ESP that is to stay cannot; `Credentials` if the host config's
    /// credentials have variables left; `DiskIo` if the disk cannot be read or has sectors of an odd size.
    pub fn new(disk: &PlanDisk, manifest: &Manifest, host: &Host) -> Result<Self> {
        let credentials = credentials::expected(host)?;
        let (mut plan, ours) = Self::settled(disk, manifest, host, &credentials)?;
        plan.check_esp(disk, plan.esp_order(manifest, &credentials)?, ours.map(|ours| ours.esp))?;
        let root = manifest.root()?;
        let (data, tree) = (root.data.content_size, root.hash_tree.content_size);
        plan.wipes = wipes::steps(&plan, &disk.contents, data, tree);
        plan.writes = plan.list_writes(data, tree);
        if matches!(plan.existing, Becomes::Replaced { .. } | Becomes::Updated { .. }) {
            plan.seeds = reuse::seeds(&plan);
        }
        if matches!(plan.existing, Becomes::Replaced { .. }) {
            plan.leftovers = wipes::leftovers(&plan, &disk.contents, data, tree);
        }
        plan.discards = discards::areas(&plan);
        plan.check_table(&disk.name)?;
        plan.check_protected()?;
        Ok(plan)
    }

    /// The partition table as it will be.
    #[must_use]
    pub fn table(&self) -> Table {
        let ours = self.partitions.iter().map(|partition| partition.entry.clone());
        let mut partitions: Vec<Entry> = ours.chain(self.kept.iter().cloned()).collect();
        partitions.sort_by_key(|entry| entry.index);
        Table { disk_guid: self.disk_guid, partitions }
    }

    /// The partition with this role.
    ///
    /// # Errors
    /// When the plan has none.
    pub fn partition(&self, role: Role) -> Result<&Entry> {
        let found = self.partitions.iter().find(|partition| partition.role == role);
        found.map(|partition| &partition.entry).with_context(|| format!("the plan has no partition {role}"))
    }

    /// The part of `disk` that is the partition with this role.
    ///
    /// # Errors
    /// When the plan has none.
    pub fn region(&self, disk: &Arc<dyn Disk>, role: Role) -> Result<Region> {
        let entry = self.partition(role)?;
        Ok(Region { disk: Arc::clone(disk), start: entry.start, size: entry.size })
    }

    /// Tells the drive what is of no use any more.
    ///
    /// # Errors
    /// The device's.
    pub fn discard(&self, disk: &dyn Disk, progress: &Progress) -> std::io::Result<()> {
        discards::discard(disk, &self.discards, progress)
    }

    /// What will be done, for a person: a line each, ending with a line feed.
    ///
    /// # Errors
    /// None that occur: every field has a JSON form, by which the plan's hash is known.
    pub fn explain(&self) -> serde_json::Result<String> {
        Ok(explain::explain(self, &self.hash()?.to_string()))
    }

    /// The plan as indented JSON.
    ///
    /// # Errors
    /// None that occur: every field has a JSON form.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The plan's canonical JSON, which is what gets measured: no white space, keys sorted.
    ///
    /// # Errors
    /// None that occur: every field has a JSON form.
    pub fn canonical(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&serde_json::to_value(self)?)
    }

    /// SHA-256 of [`Plan::canonical`].
    ///
    /// # Errors
    /// None that occur: every field has a JSON form.
    pub fn hash(&self) -> serde_json::Result<Digest> {
        Ok(Digest::of(&self.canonical()?))
    }

    /// Volume ID of the ESP's file system: from the partition's UUID, so that a second run makes the same.
    ///
    /// # Errors
    /// None that occur: the plan has an ESP.
    pub fn volume_id(&self) -> Result<u32> {
        Ok(self.partition(Role::Esp)?.uuid.as_fields().0)
    }
}

/// The slot that a disk without slots gets the release in.
pub const FIRST_SLOT: char = 'a';

#[cfg(test)]
pub(crate) mod tests;
