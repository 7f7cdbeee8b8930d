//! A file system that is on the ESP already, and stays.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use metalstrap_release::verity::BLOCK;

use crate::boot_files::{UKI_DIRECTORY, is_uki_of};
use crate::converge::Seed;
use crate::disk::{Pieces, Region, blocking};
use crate::failure::{Code, WithCode as _};
use crate::fat::{Listed, ReadAt, Steps, Volume, VolumeError, Write};

/// The partition and its file system as it is in memory.
#[derive(Debug, Clone)]
pub(super) struct There {
    region: Region,
    volume: Arc<Mutex<Volume>>,
    sound: bool,
}

impl There {
    /// Opens the file system, and frees what an interrupted run has left, in memory. `None` if there is none.
    ///
    /// # Errors
    /// [`Code::Esp`] if it cannot be changed, [`Code::DiskIo`].
    pub async fn open(region: &Region) -> Result<Option<Self>> {
        let region = region.clone();
        blocking(move || {
            let opened = open(&region)?;
            Ok(opened.map(|(volume, sound)| Self { volume: Arc::new(Mutex::new(volume)), sound, region }))
        })
        .await
    }

    /// Whether the copies of the FAT were the same.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// Works on the file system on a thread that may wait for the disk.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Volume, ReadAt<'_>, &Region) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Self { region, volume, .. } = self.clone();
        blocking(move || {
            let mut volume = volume.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut volume, &|offset, buffer: &mut [u8]| region.read_at(offset, buffer), &region)
        })
        .await
    }

    /// The path and the place of the file at `path` if it has `size` bytes; of a UKI, whatever attempts it has left.
    pub async fn find(&self, path: &str, size: u64) -> Result<Option<(String, Region)>> {
        let path = path.to_owned();
        self.with(move |volume, read, region| {
            let Some((found, entry)) = coded(look_up(volume, &path, read))? else { return Ok(None) };
            if u64::from(entry.size) != size {
                return Ok(None);
            }
            match place(volume, entry.cluster, size, region) {
                // Its clusters are not those of such a file: it is made anew.
                Err(VolumeError::Unusable(_)) => Ok(None),
                place => Ok(Some((found, coded(place)?))),
            }
        })
        .await
    }

    /// Every file among the boot loaders and UKIs: blocks of the release may be in them.
    pub async fn seeds(&self, loaders: [&'static str; 2]) -> Result<Vec<Seed>> {
        self.with(move |volume, read, region| {
            let mut found = Vec::new();
            for path in loaders {
                found.extend(coded(look_up(volume, path, read))?.map(|(_, entry)| entry));
            }
            let directory = coded(volume.directory(UKI_DIRECTORY, read))?;
            found.extend(directory.into_iter().flat_map(|directory| directory.entries));
            let files = found.into_iter().filter(|entry| !entry.is_directory && entry.size > 0);
            let places = files.map(|entry| place(volume, entry.cluster, u64::from(entry.size), region));
            Ok(places.filter_map(Result::ok).map(|region| Seed { region, tree: None }).collect())
        })
        .await
    }

    /// Takes free clusters for a file: the first of them, and where they lie.
    ///
    /// # Errors
    /// [`Code::Esp`] if there are too few.
    pub async fn take(&self, size: u64) -> Result<(u32, Region)> {
        self.with(move |volume, _, region| {
            let cluster = coded(volume.take(size))?;
            Ok((cluster, coded(place(volume, cluster, size, region))?))
        })
        .await
    }
}

/// The file system on `region`, with what an interrupted run has left freed in memory, and whether the copies of its FAT were
/// the same. `None` if there is none.
///
/// # Errors
/// [`Code::Esp`] if it cannot be changed, [`Code::DiskIo`].
pub(super) fn open(region: &Region) -> Result<Option<(Volume, bool)>> {
    let read = |offset: u64, buffer: &mut [u8]| region.read_at(offset, buffer);
    let mut volume = match Volume::open(region.size, region.disk.sector_size(), &read) {
        Err(VolumeError::Absent) => return Ok(None),
        opened => coded(opened)?,
    };
    let sound = !volume.is_dirty();
    coded(volume.find_lost(&read))?;
    Ok(Some((volume, sound)))
}

/// The file at `path` with the path it has, which for a UKI has other counters.
pub(super) fn look_up(volume: &Volume, path: &str, read: ReadAt<'_>) -> Result<Option<(String, Listed)>, VolumeError> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let Some(directory) = volume.directory(parent, read)? else { return Ok(None) };
    let label = name.rsplit_once('+').filter(|_| parent.eq_ignore_ascii_case(UKI_DIRECTORY)).map(|(label, _)| label);
    let found = match label {
        Some(label) => directory.entries.iter().find(|entry| is_uki_of(&entry.name, label)),
        None => directory.find(name),
    };
    Ok(found.filter(|entry| !entry.is_directory).map(|entry| (format!("{parent}/{}", entry.name), entry.clone())))
}

/// Where a file lies on the disk, up to the end of its last block.
fn place(volume: &Volume, cluster: u32, size: u64, region: &Region) -> Result<Region, VolumeError> {
    let outside = || VolumeError::Read(io::ErrorKind::UnexpectedEof.into());
    let moved = |at: u64| at.checked_add(region.start).ok_or_else(outside);
    let mut runs = Vec::new();
    for run in volume.runs(cluster, size)? {
        runs.push(moved(run.start)?..moved(run.end)?);
    }
    let size = size.next_multiple_of(BLOCK);
    match runs.as_slice() {
        [run] => Ok(Region { disk: Arc::clone(&region.disk), start: run.start, size }),
        _ => Ok(Region { disk: Arc::new(Pieces::new(Arc::clone(&region.disk), runs)), start: 0, size }),
    }
}

/// Takes free clusters for a file with these bytes: the first of them, and what goes where, filled up with zeroes.
///
/// # Errors
/// [`Code::Esp`] if there are too few.
pub(super) fn lay_out(volume: &mut Volume, mut bytes: Vec<u8>) -> Result<(u32, Vec<Write>)> {
    let size = u64::try_from(bytes.len())?;
    let cluster = coded(volume.take(size))?;
    let mut writes = Vec::new();
    for run in coded(volume.runs(cluster, size))? {
        let length = usize::try_from(run.end.saturating_sub(run.start))?;
        let mut piece: Vec<u8> = bytes.drain(..length.min(bytes.len())).collect();
        piece.resize(length, 0);
        writes.push(Write { offset: run.start, bytes: piece });
    }
    Ok((cluster, writes))
}

/// Writes steps, with a flush after each.
///
/// # Errors
/// [`Code::DiskIo`].
pub(super) fn apply(region: &Region, steps: Steps) -> Result<()> {
    for write in steps {
        for write in write {
            region
                .write_at(write.offset, &write.bytes)
                .code(Code::DiskIo, || "writing the EFI system partition".to_owned())?;
        }
        region.disk.flush().code(Code::DiskIo, || "flushing the EFI system partition".to_owned())?;
    }
    Ok(())
}

/// Gives the error of a file system its code.
pub(super) fn coded<T>(result: Result<T, VolumeError>) -> Result<T> {
    match result {
        Err(VolumeError::Read(error)) => {
            Err(error).code(Code::DiskIo, || "reading the EFI system partition".to_owned())
        }
        Err(error) => Err(error).code(Code::Esp, || "changing the EFI system partition".to_owned()),
        Ok(value) => Ok(value),
    }
    .context("looking at the files of the ESP")
}
