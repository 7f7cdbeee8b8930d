//! From what was found of a disk to the open disk.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use super::{DiskFacts, look, partly};
use crate::disk::{BlockDevice, Disk, FileDisk, ReadOnly};
use crate::failure::{Code, WithCode as _, coded};
use crate::plan::PlanDisk;

impl DiskFacts {
    /// The disk in messages: kernel name, and serial where there is one.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.identity.serial {
            Some(serial) => format!("{} (serial {serial})", self.name),
            None => self.name.clone(),
        }
    }

    /// What the plan has to know, but for what the machine remembers.
    #[must_use]
    pub fn for_plan(&self) -> PlanDisk {
        PlanDisk {
            name: self.describe(),
            identity: self.identity.clone(),
            sector_size: self.sector_size,
            contents: self.contents.clone(),
            remembered: Vec::new(),
        }
    }

    /// Opens the disk to be read only, also while it is in use.
    ///
    /// # Errors
    /// [`Code::DiskIo`].
    pub fn open_to_read(&self) -> Result<Arc<dyn Disk>> {
        let opened = ReadOnly::open(&self.path, self.identity.size, self.sector_size);
        Ok(Arc::new(opened.code(Code::DiskIo, || format!("opening {}", self.describe()))?))
    }

    /// Opens the disk exclusively, after checking that it still is the one described here, whatever it holds.
    ///
    /// # Errors
    /// [`Code::DiskInUse`] if somebody else has it, or it is another disk by now; [`Code::DiskIo`] otherwise.
    pub fn hold(&self, sys: &Path) -> Result<Arc<dyn Disk>> {
        let disk: Arc<dyn Disk> = if self.transport == "file" {
            Arc::new(FileDisk::open(&self.path, self.sector_size)?)
        } else {
            Arc::new(BlockDevice::open(&self.path, &self.identity, sys)?)
        };
        Ok(disk)
    }

    /// The same disk with what is on it now: what has kept it from being read is gone.
    #[must_use]
    pub fn looked_at_again(self, disk: &dyn Disk) -> Self {
        Self { contents: look(disk), ..self }
    }

    /// Opens the disk for the whole run, exclusively, after checking that it still is the one described here and holds
    /// what it held.
    ///
    /// # Errors
    /// [`Code::DiskInUse`] if somebody else has it, or it is another disk by now; [`Code::DiskIo`] otherwise.
    pub fn lock(&self, sys: &Path) -> Result<Arc<dyn Disk>> {
        let disk = self.hold(sys)?;
        let same_size = disk.size() == self.identity.size && disk.sector_size() == self.sector_size;
        let reading = || format!("reading {}", self.describe());
        disk.forget_cache().code(Code::DiskIo, reading)?;
        if !same_size || !partly::still_holds(disk.as_ref(), &self.contents).code(Code::DiskIo, reading)? {
            return Err(coded(Code::DiskInUse, format!("disk {} has changed since it was looked at", self.describe())));
        }
        Ok(disk)
    }
}
