//! What of a release is needed in any case and is small: fetched ahead it costs one round trip, in turn a dozen.

use std::ops::Range;

use anyhow::Result;
use metalstrap_release::manifest::{Manifest, Payload};
use metalstrap_release::verity::{BLOCK, Geometry};

use super::goal::payload_path;
use crate::plan::Becomes;

/// A payload of the boot files up to this is fetched as a whole.
const SMALL: u64 = 512 << 10;
/// So much is fetched ahead at most: it is in memory until it is needed, and a cut loses it.
const MOST: u64 = 2 << 20;

/// The parts of files below the repository that will be needed where the disk becomes this, in the order in which they will
/// be. Nothing where its slot may have the release already: what is right is not fetched.
///
/// # Errors
/// None that occur: the manifest has a root file system.
pub fn ahead(manifest: &Manifest, disk: &Becomes) -> Result<Vec<(String, Range<u64>)>> {
    let (root, boot) = (manifest.root()?, &manifest.boot);
    let mut wanted = match disk {
        Becomes::Kept | Becomes::Replaced { .. } => return Ok(Vec::new()),
        Becomes::Blank | Becomes::Updated { .. } | Becomes::Wiped { .. } => {
            vec![table(&root.hash_tree), upper_levels(&root.hash_tree, root.data.content_size), table(&root.data)]
        }
    };
    let uki = &boot.uki;
    let loader = &boot.loader;
    // The boot loader of the release before is often the same.
    if *disk == Becomes::Blank {
        wanted.extend([whole(&loader.hash_tree), whole(&loader.data)]);
    }
    wanted.extend([whole(&uki.hash_tree), table(&uki.data)]);
    let mut left = MOST;
    wanted.retain(|(_, range)| {
        let rest = left.checked_sub(range.end.saturating_sub(range.start)).filter(|_| !range.is_empty());
        left = rest.unwrap_or(left);
        rest.is_some()
    });
    Ok(wanted)
}

/// The seek table.
fn table(payload: &Payload) -> (String, Range<u64>) {
    (payload_path(payload), payload.size.saturating_sub(payload.seek_table_size)..payload.size)
}

/// All of it, if it is small; else its seek table.
fn whole(payload: &Payload) -> (String, Range<u64>) {
    if payload.size > SMALL { table(payload) } else { (payload_path(payload), 0..payload.size) }
}

/// The levels of a hash tree above the lowest one, each of which is looked for when the one above is known. Frames of one block
/// hardly compress; of what is too much of it the lowest level makes use.
fn upper_levels(payload: &Payload, data_size: u64) -> (String, Range<u64>) {
    let lowest = Geometry::new(data_size / BLOCK).and_then(|tree| tree.levels().last().copied());
    let blocks = lowest.map_or(1, |level| level.start);
    let end = payload.size.saturating_sub(payload.seek_table_size);
    (payload_path(payload), 0..blocks.saturating_mul(BLOCK).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusals::published::good;

    #[test]
    fn only_what_a_disk_without_the_release_needs_in_any_case_is_fetched_ahead() {
        let manifest = good().manifest;
        let (root, boot) = (manifest.root().unwrap(), &manifest.boot);
        let ends = |payload: &Payload| (payload_path(payload), payload.size - payload.seek_table_size..payload.size);
        let all = |payload: &Payload| (payload_path(payload), 0..payload.size);
        // 515 blocks: five in the lowest level, below superblock and top.
        let first = (payload_path(&root.hash_tree), 0..8192);
        let needed = [ends(&root.hash_tree), first, ends(&root.data)];
        let uki = [all(&boot.uki.hash_tree), ends(&boot.uki.data)];
        let loader = [all(&boot.loader.hash_tree), all(&boot.loader.data)];
        let blank = ahead(&manifest, &Becomes::Blank).unwrap();
        assert_eq!(blank, [&needed[..], &loader, &uki].concat());
        let updated = ahead(&manifest, &Becomes::Updated { from: "tiny_0".to_owned() }).unwrap();
        assert_eq!(updated, [&needed[..], &uki].concat());
        assert_eq!(ahead(&manifest, &Becomes::Kept).unwrap(), []);
    }
}
