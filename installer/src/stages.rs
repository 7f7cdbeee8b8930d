//! The disk's way through an installation as types: each stage is made from the one before, so that no step can come
//! too early.
//!
//! [`Locked`] → [`Erased`] → [`Invalidated`] → [`Treed`] → [`Written`] → [`Checked`] → [`Committed`] → [`Bootable`]

mod bootable;

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::host::Erase;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::verity::{BLOCK, Tree};

use crate::converge::{self, BlockSet, Payloads, ReadBack, Seed, Tally, TreeOf};
use crate::credentials::Sealed;
use crate::disk::{Disk, Region};
use crate::erase::{self, DriveOpener, Eraser};
use crate::esp::{self, Esp};
use crate::failure::{Code, Touched, WithCode as _};
use crate::fetch::Mirrors;
use crate::gpt;
use crate::inventory::DiskFacts;
use crate::plan::{Becomes, Holds, Plan, Role};
use crate::progress::Progress;
use crate::report::Reporter;

/// The disk is ours for the whole run, and writes go only where the plan has them. Nothing is written yet.
#[derive(Debug)]
pub struct Locked {
    disk: Arc<dyn Disk>,
    /// The same without the plan's bounds: what is erased is all of it.
    whole: Arc<dyn Disk>,
    plan: Plan,
}

/// The old content is erased, where the plan says so.
#[derive(Debug)]
pub struct Erased {
    at: Locked,
    /// By this run, so that it has to be noted on the disk.
    now: bool,
}

/// Nothing that is about to be overwritten boots.
#[derive(Debug)]
pub struct Invalidated(Locked);

/// The hash tree is on the disk and leads to the root hash of the manifest.
#[derive(Debug)]
pub struct Treed {
    at: Invalidated,
    tree: Arc<Tree<Region>>,
    tally: Tally,
}

/// Every block of the root file system is in its place.
#[derive(Debug)]
pub struct Written {
    at: Treed,
    /// What the device itself has returned right.
    proven: Arc<BlockSet>,
}

/// Every block that was written was read back from the device and is right, or the owner does without that.
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
        Self { disk: Arc::new(plan.guard(Arc::clone(&disk))), whole: disk, plan }
    }

    /// What a failure from now on has to say of the disk.
    #[must_use]
    pub fn touched(&self, facts: &DiskFacts) -> Touched {
        let disk = facts.describe();
        match (&self.plan.existing, &self.plan.fallback) {
            (Becomes::Kept, _) => Touched::Again(disk),
            (Becomes::Updated { .. }, Some(other)) => Touched::Beside(disk, other.clone()),
            _ => Touched::Begun(disk),
        }
    }

    /// How the disk will be erased; `None` where the plan has no erasure, or where an interrupted run has done it.
    ///
    /// # Errors
    /// [`Code::CannotErase`]; the disk's.
    pub fn eraser(&self, facts: &DiskFacts, open: &DriveOpener, tell: &Reporter) -> Result<Option<Eraser>> {
        let plan = &self.plan;
        if plan.erase == Erase::None {
            return Ok(None);
        }
        let noted = erase::has_mark(self.whole.as_ref(), plan.disk_guid);
        if noted.code(Code::DiskIo, || format!("reading {}", facts.describe()))? && plan.existing == Becomes::Blank {
            tell.say(&format!("{} is erased already, by the run that this one goes on from", facts.describe()));
            return Ok(None);
        }
        Eraser::choose(self.whole.as_ref(), facts, plan.erase, open).map(Some)
    }

    /// Erases the disk, and tells the receipt. What boots goes first: an old kernel without its root must not be found if
    /// the power fails in the middle.
    ///
    /// # Errors
    /// [`Code::EraseFailed`]; the disk's.
    pub fn erase(self, eraser: Option<&Eraser>, facts: &DiskFacts, tell: &Reporter) -> Result<Erased> {
        let Some(eraser) = eraser else { return Ok(Erased { at: self, now: false }) };
        let receipt = tell.step("erase", "Erasing the disk", |progress| {
            gpt::wipe(self.disk.as_ref(), self.plan.wipes.get(..1).unwrap_or_default())?;
            eraser.erase(self.whole.as_ref(), self.plan.disk_guid, progress, tell)
        })?;
        tell.tell("erase", "info", receipt.fields(facts)?);
        Ok(Erased { at: self, now: true })
    }

    fn region(&self, role: Role) -> Result<Region> {
        self.plan.region(&self.disk, role)
    }

    /// Where blocks may be found that are to be in their place.
    fn seeds(&self, holds: Holds) -> Vec<Seed> {
        let region =
            |area: &crate::plan::Area| Region { disk: Arc::clone(&self.disk), start: area.start, size: area.size };
        let seeds = self.plan.seeds.iter().filter(|seed| seed.holds == holds);
        seeds.map(|seed| Seed { region: region(&seed.area), tree: seed.hash_tree.as_ref().map(region) }).collect()
    }
}

impl Erased {
    /// The first writes, unless an erasure was: the names of UKIs whose slot is overwritten, old tables and signatures go, as
    /// the plan lists them, and what was wiped is looked at again.
    ///
    /// # Errors
    /// The disk's; [`Code::NotClean`].
    pub fn invalidate(self, progress: &Progress) -> Result<Invalidated> {
        let Locked { disk, plan, .. } = &self.at;
        esp::unname(&self.at.region(Role::Esp)?, &plan.names.removed)?;
        gpt::invalidate(disk.as_ref(), plan)?;
        if self.now {
            let noting = || format!("noting on {} that it is erased", disk.describe());
            erase::write_mark(disk.as_ref(), plan.disk_guid).code(Code::DiskIo, noting)?;
        }
        if let Err(error) = plan.discard(disk.as_ref(), progress) {
            // Nothing relies on it.
            log::warn!("{:#}", anyhow::Error::new(error));
        }
        Ok(Invalidated(self.at))
    }
}

impl Invalidated {
    /// Makes the hash tree, each block checked on its way up to the root hash.
    ///
    /// # Errors
    /// The mirrors', the disk's, and bytes that are not the tree.
    pub async fn hash_tree(self, mirrors: &Arc<Mirrors>, manifest: &Manifest, progress: &Progress) -> Result<Treed> {
        let root = manifest.root()?;
        let region = self.0.region(Role::RootVerity { slot: self.0.plan.target })?;
        let old = self.0.seeds(Holds::Root).into_iter().filter_map(|seed| seed.tree);
        let seeds: Vec<_> = old.map(|region| Seed { region, tree: None }).collect();
        let of = TreeOf {
            payload: &root.hash_tree,
            root_hash: root.root_hash,
            salt: &root.salt.0,
            data_blocks: root.data.content_size / BLOCK,
            uuid: Some(root.hash_tree_uuid),
        };
        progress.expect(root.hash_tree.content_size);
        let (tree, tally) = converge::hash_tree(mirrors, of, &region, &seeds, progress).await?;
        Ok(Treed { at: self, tree: Arc::new(tree), tally })
    }
}

impl Treed {
    /// Makes the root file system: what is right stays, what is elsewhere on the disk is copied, the rest is fetched, each
    /// block checked against the tree before it is written.
    ///
    /// # Errors
    /// The mirrors', the disk's, and bytes that are not the image.
    pub async fn root(
        mut self,
        mirrors: &Arc<Mirrors>,
        manifest: &Manifest,
        read_back: ReadBack,
        progress: &Progress,
    ) -> Result<Written> {
        let region = self.region()?;
        let root = manifest.root()?;
        progress.expect(root.data.content_size);
        let payloads = Payloads { data: &root.data, fine: root.fine.as_ref() };
        let seeds = self.at.0.seeds(Holds::Root);
        let (tally, proven) =
            converge::data(mirrors, payloads, &self.tree, &region, &seeds, read_back, progress).await?;
        self.tally += tally;
        Ok(Written { at: self, proven })
    }

    fn region(&self) -> Result<Region> {
        self.at.0.region(Role::Root { slot: self.at.0.plan.target })
    }
}

impl Written {
    /// Reads what was written of the root file system back from the device and checks it against the tree.
    ///
    /// # Errors
    /// The disk's, and blocks that are not what was written.
    pub async fn read_back(self, progress: &Progress) -> Result<Checked> {
        let tree = &self.at.tree;
        converge::read_back(&self.at.region()?, tree, tree.store(), &self.proven, progress).await?;
        Ok(Checked(self.at))
    }

    /// Takes the drive's word for it that it has what was written.
    ///
    /// # Errors
    /// The disk's.
    pub async fn flush_only(self) -> Result<Checked> {
        converge::flush(&self.at.region()?).await?;
        Ok(Checked(self.at))
    }
}

impl Checked {
    /// Wipes what the release no longer needs of the old slots, and what the old table had beside it, and writes the partition
    /// table: backup, flush, primary, flush.
    ///
    /// # Errors
    /// The disk's; [`Code::NotClean`].
    pub fn commit(self) -> Result<Committed> {
        let Locked { disk, plan, .. } = &self.0.at.0;
        gpt::clear_leftovers(disk.as_ref(), plan)?;
        if plan.erase != Erase::None {
            let clearing = || format!("clearing the note of the erasure on {}", disk.describe());
            erase::remove_mark(disk.as_ref()).code(Code::DiskIo, clearing)?;
        }
        gpt::commit(disk.as_ref(), plan)?;
        Ok(Committed(self.0))
    }
}

impl Committed {
    /// Makes the ESP and writes boot loader, credentials and UKI; the UKI's name comes last.
    ///
    /// # Errors
    /// The mirrors', the disk's, and bytes that are not the UKI or the loader.
    pub async fn esp(
        self,
        mirrors: &Arc<Mirrors>,
        manifest: &Manifest,
        credentials: &[Sealed],
        progress: &Progress,
    ) -> Result<Bootable> {
        let locked = &self.0.at.0;
        let region = locked.region(Role::Esp)?;
        let seeds = locked.seeds(Holds::BootFiles);
        let plan = &locked.plan;
        let order = plan.esp_order(manifest, credentials)?;
        let esp = esp::write(mirrors, order, &region, &seeds, progress).await?;
        Ok(Bootable { at: self.0, esp })
    }
}
