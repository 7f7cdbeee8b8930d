//! The disk's way through an installation as types: each stage is made from the one before, so that no step can come
//! too early.
//!
//! [`Locked`] → [`Invalidated`] → [`Treed`] → [`Written`] → [`Checked`] → [`Committed`] → [`Bootable`]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::verity::{BLOCK, Tree};

use crate::bootvars;
use crate::converge::{self, Tally};
use crate::disk::{Disk, Region};
use crate::esp::{self, Esp};
use crate::failure::Touched;
use crate::fetch::Source;
use crate::gpt;
use crate::inventory::DiskFacts;
use crate::plan::{Becomes, Plan, Role, TARGET_SLOT};
use crate::progress::Progress;

/// The disk is ours for the whole run, and writes go only where the plan has them. Nothing is written yet.
#[derive(Debug)]
pub struct Locked {
    disk: Arc<dyn Disk>,
    plan: Plan,
}

/// Nothing on the disk boots, unless it is this very release.
#[derive(Debug)]
pub struct Invalidated(Locked);

/// The hash tree is on the disk and leads to the root hash of the manifest.
#[derive(Debug)]
pub struct Treed {
    at: Invalidated,
    tree: Arc<Tree<Region>>,
    tally: Tally,
}

/// Every block of the root file system is written.
#[derive(Debug)]
pub struct Written(Treed);

/// Every block was read back from the device and is right.
#[derive(Debug)]
pub struct Checked(Treed);

/// The partition table is on the disk.
#[derive(Debug)]
pub struct Committed(Treed);

/// The UKI has its name: the disk boots.
#[derive(Debug)]
pub struct Bootable {
    at: Treed,
    /// The ESP, with the place of the UKI.
    pub esp: Esp,
}

impl Locked {
    /// Holds a locked disk to `plan`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, plan: Plan) -> Self {
        Self { disk: Arc::new(plan.guard(disk)), plan }
    }

    /// What a failure from now on has to say of the disk.
    #[must_use]
    pub fn touched(&self, facts: &DiskFacts) -> Touched {
        let disk = facts.describe();
        if self.plan.existing == Becomes::Kept { Touched::Again(disk) } else { Touched::Begun(disk) }
    }

    /// The first writes: old tables and signatures go, as the plan lists them.
    ///
    /// # Errors
    /// The disk's.
    pub fn invalidate(self) -> Result<Invalidated> {
        gpt::invalidate(self.disk.as_ref(), &self.plan)?;
        Ok(Invalidated(self))
    }

    fn region(&self, role: Role) -> Result<Region> {
        self.plan.region(&self.disk, role)
    }
}

impl Invalidated {
    /// Writes the hash tree, each block checked on its way up to the root hash.
    ///
    /// # Errors
    /// The source's, the disk's, and bytes that are not the tree.
    pub async fn hash_tree(self, source: &dyn Source, manifest: &Manifest, progress: &Progress) -> Result<Treed> {
        let root = manifest.root()?;
        let store = self.0.region(Role::RootVerity { slot: TARGET_SLOT })?;
        let blocks = root.data.content_size / BLOCK;
        let salt = root.salt.0.clone();
        let tree = converge::hash_tree(source, &root.hash_tree, store, root.root_hash, salt, blocks, progress).await?;
        Ok(Treed { at: self, tree: Arc::new(tree), tally: Tally::default() })
    }
}

impl Treed {
    /// Writes the root file system, each block checked against the tree before it is written.
    ///
    /// # Errors
    /// The source's, the disk's, and bytes that are not the image.
    pub async fn root(mut self, source: &dyn Source, manifest: &Manifest, progress: &Progress) -> Result<Written> {
        let region = self.at.0.region(Role::Root { slot: TARGET_SLOT })?;
        self.tally = converge::data(source, &manifest.root()?.data, &self.tree, &region, progress).await?;
        Ok(Written(self))
    }
}

impl Written {
    /// Reads the root file system back from the device and checks it against the tree.
    ///
    /// # Errors
    /// The disk's, and blocks that are not what was written.
    pub async fn read_back(self, progress: &Progress) -> Result<Checked> {
        let region = self.0.at.0.region(Role::Root { slot: TARGET_SLOT })?;
        let blocks = self.0.tree.geometry().data_blocks();
        converge::read_back(&region, &self.0.tree, blocks, progress).await?;
        Ok(Checked(self.0))
    }
}

impl Checked {
    /// Writes the partition table: backup, flush, primary, flush.
    ///
    /// # Errors
    /// The disk's.
    pub fn commit(self) -> Result<Committed> {
        gpt::commit(self.0.at.0.disk.as_ref(), &self.0.at.0.plan)?;
        Ok(Committed(self.0))
    }
}

impl Committed {
    /// Makes the ESP and writes boot loader and UKI; the UKI's name comes last.
    ///
    /// # Errors
    /// The source's, the disk's, and bytes that are not the UKI or the loader.
    pub async fn esp(self, source: &dyn Source, manifest: &Manifest, progress: &Progress) -> Result<Bootable> {
        let region = self.0.at.0.region(Role::Esp)?;
        let esp = esp::write(source, manifest, &region, self.0.at.0.plan.volume_id()?, progress).await?;
        Ok(Bootable { at: self.0, esp })
    }
}

impl Bootable {
    /// Bytes fetched of the root file system and of what is on the ESP.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.at.tally.fetched_bytes + self.esp.tally.fetched_bytes
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
