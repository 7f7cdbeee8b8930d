//! Names in a file system that is there: taken away, changed and added by writes after each of which every name that can be
//! found leads to a whole file.

use std::ops::Range;

use super::Write;
use super::directory::{ATTRIBUTE_ARCHIVE, ATTRIBUTE_DIRECTORY, short_entry};
use super::listing::{Directory, FREE, LAST, Listed};
use super::name::{self, Alias, SLOT};
use super::volume::{ReadAt, Volume, VolumeError, unusable};

/// Writes between which the disk is flushed.
pub type Steps = Vec<Vec<Write>>;

pub(super) fn without_empty(steps: Steps) -> Steps {
    steps.into_iter().filter(|step| !step.is_empty()).collect()
}

impl Volume {
    /// Takes the name of the file at `path` away; its clusters are free afterwards. No steps if it is not there.
    ///
    /// # Errors
    /// It cannot be read, or is a directory.
    pub fn remove(&mut self, path: &str, read: ReadAt<'_>) -> Result<Steps, VolumeError> {
        let Some((mut directory, entry)) = self.look_up(path, read)? else { return Ok(Steps::new()) };
        if entry.is_directory {
            return unusable(format!("has a directory at {path:?}"));
        }
        let chain = self.freed_with(entry.cluster);
        let mut steps = self.unname(&mut directory, &entry);
        self.give_back(&chain);
        steps.push(self.fat_writes());
        Ok(without_empty(steps))
    }

    /// Gives the file at `path` another name in its directory: by one sector where that has room for it, else the old name
    /// goes first. No steps if it is not there.
    ///
    /// # Errors
    /// It cannot be read, or the name is none or taken.
    pub fn rename(&mut self, path: &str, name: &str, read: ReadAt<'_>) -> Result<Steps, VolumeError> {
        let Some((mut directory, entry)) = self.look_up(path, read)? else { return Ok(Steps::new()) };
        let before = directory.clone();
        let fat = self.fat_writes();
        let away = self.unname(&mut directory, &entry);
        directory.entries.retain(|other| *other != entry);
        let mut steps = self.add_to(&mut directory, name, ATTRIBUTE_ARCHIVE, entry.cluster, entry.size)?;
        let sector = usize::try_from(self.sector).unwrap_or(512);
        let sectors = before.bytes.chunks(sector).zip(directory.bytes.chunks(sector));
        let changed: Vec<usize> = sectors.enumerate().filter(|(_, (old, new))| old != new).map(|(at, _)| at).collect();
        if let ([only], true) = (changed.as_slice(), before.bytes.len() == directory.bytes.len()) {
            let slot = only * sector / SLOT;
            return Ok(without_empty(vec![fat, self.slot_writes(&directory, slot..slot + 1)]));
        }
        steps.splice(0..0, std::iter::once(fat).chain(away));
        Ok(without_empty(steps))
    }

    /// Makes the directory at `path`, in one that is there.
    ///
    /// # Errors
    /// It is there already, its parent is not, or there is no room.
    pub fn make_directory(&mut self, path: &str, read: ReadAt<'_>) -> Result<Steps, VolumeError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(mut directory) = self.directory(parent, read)? else {
            return unusable(format!("has no directory {parent:?}"));
        };
        let cluster = self.take(self.cluster)?;
        // The root is cluster 0 to those in it (fatgen, "Directory creation").
        let above = directory.chain.first().copied().filter(|first| *first != self.root).unwrap_or(0);
        let mut bytes = Vec::new();
        for (alias, cluster) in [(b".          ", cluster), (b"..         ", above)] {
            bytes.extend(short_entry(alias, ATTRIBUTE_DIRECTORY, cluster, 0));
        }
        bytes.resize(usize::try_from(self.cluster).unwrap_or_default(), 0);
        let mut steps = vec![vec![Write { offset: self.offset_of(cluster), bytes }]];
        steps.extend(self.add_to(&mut directory, name, ATTRIBUTE_DIRECTORY, cluster, 0)?);
        Ok(steps)
    }

    /// The writes after which an entry is no more: the short one is the file, so it goes first. A long name without one is
    /// nobody's.
    fn unname(&self, directory: &mut Directory, entry: &Listed) -> Steps {
        for slot in entry.slots.clone() {
            if let Some(first) = directory.bytes.get_mut(slot * SLOT) {
                *first = FREE;
            }
        }
        let short = self.slot_writes(directory, *entry.slots.end()..*entry.slots.end() + 1);
        let mut rest = self.slot_writes(directory, *entry.slots.start()..*entry.slots.end());
        rest.retain(|write| !short.contains(write));
        vec![short, rest]
    }

    /// Gives the name at `path`, which is there, to the file of `size` bytes whose clusters [`Volume::take`] gave: the FATs,
    /// then one sector, then the old file's clusters.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn replace(&mut self, path: &str, cluster: u32, size: u32, read: ReadAt<'_>) -> Result<Steps, VolumeError> {
        let Some((mut directory, entry)) = self.look_up(path, read)?.filter(|(_, entry)| !entry.is_directory) else {
            return unusable(format!("has no file {path:?}"));
        };
        let old = self.freed_with(entry.cluster);
        let slot = *entry.slots.end();
        let [low0, low1, high0, high1] = cluster.to_le_bytes();
        for (at, bytes) in [(20, [high0, high1].as_slice()), (26, &[low0, low1]), (28, &size.to_le_bytes())] {
            let start = slot * SLOT + at;
            if let Some(place) = directory.bytes.get_mut(start..start + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        let mut steps = vec![self.fat_writes(), self.slot_writes(&directory, slot..slot + 1)];
        self.give_back(&old);
        steps.push(self.fat_writes());
        Ok(without_empty(steps))
    }

    /// Adds a name for the file of `size` bytes whose clusters [`Volume::take`] gave, in a directory that is there. The last
    /// step is the one sector that makes it appear.
    ///
    /// # Errors
    /// There is such a name already, no directory, or no room.
    pub fn add(&mut self, path: &str, cluster: u32, size: u32, read: ReadAt<'_>) -> Result<Steps, VolumeError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(mut directory) = self.directory(parent, read)? else {
            return unusable(format!("has no directory {parent:?}"));
        };
        self.add_to(&mut directory, name, ATTRIBUTE_ARCHIVE, cluster, size)
    }

    pub(super) fn add_to(
        &mut self,
        directory: &mut Directory,
        name: &str,
        attribute: u8,
        cluster: u32,
        size: u32,
    ) -> Result<Steps, VolumeError> {
        if name::check(name).is_err() {
            return unusable(format!("cannot hold the name {name:?}"));
        }
        if directory.find(name).is_some() {
            return unusable(format!("has a {name:?} already"));
        }
        let taken = |alias: &Alias| directory.entries.iter().any(|entry| entry.alias == *alias);
        let Some(alias) = name::alias(name, taken) else {
            return unusable(format!("has no short name left for {name:?}"));
        };
        let mut slots = name::long_entries(name, &alias);
        slots.push(short_entry(&alias, attribute, cluster, size));
        let mut steps = Steps::new();
        let first = match self.room(directory, slots.len()) {
            Some(first) => first,
            None => self.grow(directory, slots.len(), &mut steps)?,
        };
        let (all, shows) = directory.put(first, &slots);
        let last = self.slot_writes(directory, shows..shows + 1);
        let mut before = self.fat_writes();
        before.extend(self.slot_writes(directory, all).into_iter().filter(|write| !last.contains(write)));
        steps.push(before);
        steps.push(last);
        Ok(without_empty(steps))
    }

    fn look_up(&self, path: &str, read: ReadAt<'_>) -> Result<Option<(Directory, Listed)>, VolumeError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(directory) = self.directory(parent, read)? else { return Ok(None) };
        let entry = directory.find(name).cloned();
        Ok(entry.map(|entry| (directory, entry)))
    }

    /// The first slot of as many free ones in a row, in one sector if one can hold them.
    fn room(&self, directory: &Directory, count: usize) -> Option<usize> {
        let per_sector = usize::try_from(self.sector).ok()? / SLOT;
        let slots = directory.bytes.as_chunks::<SLOT>().0;
        let end = directory.end();
        let is_free = |slot: usize| slot >= end || slots.get(slot).is_some_and(|slot| slot.starts_with(&[FREE]));
        let crosses = |first: usize| count <= per_sector && first % per_sector + count > per_sector;
        let last = slots.len().checked_sub(count)?;
        (0..=last).find(|first| !crosses(*first) && (*first..*first + count).all(is_free))
    }

    /// Adds a cluster to a directory, and gives the first slot that there is room in.
    fn grow(&mut self, directory: &mut Directory, count: usize, steps: &mut Steps) -> Result<usize, VolumeError> {
        let new = self.take(self.cluster)?;
        let Some(last) = directory.chain.last().copied() else { return unusable("has a directory without clusters") };
        let empty = vec![0; usize::try_from(self.cluster).unwrap_or_default()];
        directory.chain.push(new);
        directory.bytes.extend(&empty);
        // It says that nothing is in it, and is the end of a chain, before it belongs to the directory.
        let mut first = vec![Write { offset: self.offset_of(new), bytes: empty }];
        first.extend(self.fat_writes());
        steps.push(first);
        self.set(last, new);
        steps.push(self.fat_writes());
        match self.room(directory, count) {
            Some(first) => Ok(first),
            None => unusable("has no room for so long a name"),
        }
    }

    /// The sectors of a directory that hold these slots.
    pub(super) fn slot_writes(&self, directory: &Directory, slots: Range<usize>) -> Vec<Write> {
        let sector = usize::try_from(self.sector).unwrap_or(512);
        let cluster = usize::try_from(self.cluster).unwrap_or(4096);
        let (start, end) =
            (slots.start * SLOT / sector, (slots.end * SLOT).min(directory.bytes.len()).div_ceil(sector));
        let write = |number: usize| {
            let at = number * sector;
            let bytes = directory.bytes.get(at..at + sector)?.to_vec();
            let within = u64::try_from(at % cluster).ok()?;
            Some(Write { offset: self.offset_of(*directory.chain.get(at / cluster)?) + within, bytes })
        };
        (start..end).filter_map(write).collect()
    }
}

impl Directory {
    /// The slot behind the last entry.
    fn end(&self) -> usize {
        let slots = self.bytes.as_chunks::<SLOT>().0;
        slots.iter().position(|slot| slot.starts_with(&[LAST])).unwrap_or(slots.len())
    }

    /// Puts entries into free slots from `first` on. Gives the slots that changed, and the one whose sector has to come last:
    /// before it is written none of the others counts.
    fn put(&mut self, first: usize, entries: &[[u8; SLOT]]) -> (Range<usize>, usize) {
        let (old_end, behind) = (self.end(), first + entries.len());
        let slots = self.bytes.as_chunks_mut::<SLOT>().0;
        slots.iter_mut().skip(first).zip(entries).for_each(|(slot, entry)| *slot = *entry);
        if behind <= old_end {
            // Among other entries: what is before the short one is a long name without a file.
            return (first..behind, behind - 1);
        }
        // Behind the old end nothing is looked at, and may be anything: what is skipped is free, and there is a new end.
        slots.iter_mut().take(first).skip(old_end).filter_map(|slot| slot.first_mut()).for_each(|byte| *byte = FREE);
        if let Some(end) = slots.get_mut(behind) {
            end.fill(0);
        }
        (old_end.min(first)..(behind + 1).min(slots.len()), old_end)
    }
}
