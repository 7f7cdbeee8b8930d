//! A directory of a file system that is there gets other content, all of it by one sector: its entries are written to clusters
//! that are free, and then its name leads to these.

use super::Write;
use super::directory::{ATTRIBUTE_ARCHIVE, ATTRIBUTE_DIRECTORY, short_entry};
use super::edit::{Steps, without_empty};
use super::listing::{Directory, Listed};
use super::name::{self, Alias, SLOT};
use super::volume::{ReadAt, Volume, VolumeError, unusable};

/// A file whose clusters [`Volume::take`] gave, and which has no name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// The name that it gets.
    pub name: String,
    /// Its first cluster.
    pub cluster: u32,
    /// Its bytes.
    pub size: u32,
}

/// The entries of a directory in the making.
struct Entries {
    slots: Vec<[u8; SLOT]>,
    aliases: Vec<Alias>,
}

impl Volume {
    /// Gives the directory at `path` the names of `files`, and of what it has those that `stays` says yes to; all others are
    /// free afterwards. It is made where it is not there, in one that is.
    ///
    /// # Errors
    /// There is no directory above it, something else has its name, or there is no room.
    pub fn refill(
        &mut self,
        path: &str,
        files: &[Unnamed],
        stays: impl Fn(&Listed) -> bool,
        read: ReadAt<'_>,
    ) -> Result<Steps, VolumeError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(mut above) = self.directory(parent, read)? else {
            return unusable(format!("has no directory {parent:?}"));
        };
        let entry = above.find(name).cloned();
        let old = match &entry {
            Some(entry) if !entry.is_directory => return unusable(format!("has a file at {path:?}")),
            Some(_) => self.directory(path, read)?,
            None => None,
        };
        let mut entries = Entries { slots: Vec::new(), aliases: Vec::new() };
        let (mut goes, mut inner): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        if let Some(old) = &old {
            goes.extend_from_slice(&old.chain);
            for listed in &old.entries {
                if stays(listed) {
                    entries.keep(old, listed);
                    inner.extend(listed.is_directory.then_some(listed.cluster));
                } else {
                    // What is no chain is nobody's to give back.
                    goes.extend(self.chain(listed.cluster).unwrap_or_default());
                }
            }
        }
        files.iter().try_for_each(|file| entries.add(file))?;

        let mut steps = Steps::new();
        let (first, mut writes) = self.lay_out(entries, &above)?;
        for directory in inner {
            writes.extend(self.moved(directory, first, read)?);
        }
        writes.extend(self.fat_writes());
        steps.push(writes);
        match entry {
            Some(entry) => {
                let slot = *entry.slots.end();
                above.point(slot, first);
                steps.push(self.slot_writes(&above, slot..slot + 1));
            }
            None => steps.extend(self.add_to(&mut above, name, ATTRIBUTE_DIRECTORY, first, 0)?),
        }
        self.give_back(&goes);
        steps.push(self.fat_writes());
        Ok(without_empty(steps))
    }

    /// Takes clusters for the entries of a directory in `above`: the first of them, and what is written there.
    fn lay_out(&mut self, entries: Entries, above: &Directory) -> Result<(u32, Vec<Write>), VolumeError> {
        let count = entries.slots.len().saturating_add(2);
        let bytes = u64::try_from(count.saturating_mul(SLOT)).unwrap_or(u64::MAX);
        let first = self.take(bytes)?;
        // The root is cluster 0 to those in it (fatgen, "Directory creation").
        let parent = above.chain.first().copied().filter(|first| *first != self.root).unwrap_or(0);
        let mut slots = vec![
            short_entry(b".          ", ATTRIBUTE_DIRECTORY, first, 0),
            short_entry(b"..         ", ATTRIBUTE_DIRECTORY, parent, 0),
        ];
        slots.extend(entries.slots);
        let cluster = usize::try_from(self.cluster).unwrap_or(4096);
        let mut bytes = slots.concat();
        bytes.resize(bytes.len().next_multiple_of(cluster), 0);
        let places = self.chain(first)?.into_iter().zip(bytes.chunks(cluster));
        let writes = places.map(|(number, piece)| Write { offset: self.offset_of(number), bytes: piece.to_vec() });
        Ok((first, writes.collect()))
    }

    /// A directory that begins at `directory` has `above` above it from now on. It is the second of its entries; who looks at
    /// it is fsck.
    fn moved(&self, directory: u32, above: u32, read: ReadAt<'_>) -> Result<Option<Write>, VolumeError> {
        let mut bytes = vec![0; usize::try_from(self.sector).unwrap_or(512)];
        let offset = self.offset_of(directory);
        read(offset, &mut bytes)?;
        let Some(slot) = bytes.get_mut(SLOT..2 * SLOT).filter(|slot| slot.starts_with(b"..         ")) else {
            return Ok(None);
        };
        point(slot, above);
        Ok(Some(Write { offset, bytes }))
    }
}

impl Entries {
    /// As the old directory has it, short name and all.
    fn keep(&mut self, old: &Directory, listed: &Listed) {
        let slots = old.bytes.as_chunks::<SLOT>().0;
        self.slots.extend(slots.get(listed.slots.clone()).unwrap_or_default());
        self.aliases.push(listed.alias);
    }

    fn add(&mut self, file: &Unnamed) -> Result<(), VolumeError> {
        let Unnamed { name, cluster, size } = file;
        if name::check(name).is_err() {
            return unusable(format!("cannot hold the name {name:?}"));
        }
        let Some(alias) = name::alias(name, |alias| self.aliases.contains(alias)) else {
            return unusable(format!("has no short name left for {name:?}"));
        };
        self.slots.extend(name::long_entries(name, &alias));
        self.slots.push(short_entry(&alias, ATTRIBUTE_ARCHIVE, *cluster, *size));
        self.aliases.push(alias);
        Ok(())
    }
}

impl Directory {
    /// Has the short entry in `slot` lead to `cluster`.
    fn point(&mut self, slot: usize, cluster: u32) {
        let start = slot.saturating_mul(SLOT);
        if let Some(slot) = self.bytes.get_mut(start..start.saturating_add(SLOT)) {
            point(slot, cluster);
        }
    }
}

/// Has a short entry lead to `cluster` (fatgen, "FAT 32 Byte Directory Entry Structure").
fn point(slot: &mut [u8], cluster: u32) {
    let [low0, low1, high0, high1] = cluster.to_le_bytes();
    for (at, bytes) in [(20, [high0, high1]), (26, [low0, low1])] {
        if let Some(place) = slot.get_mut(at..at + 2) {
            place.copy_from_slice(&bytes);
        }
    }
}
