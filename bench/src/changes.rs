//! Images of which a part of the blocks has changed, and blocks to be damaged.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE};

use crate::noise::Noise;

/// Blocks of 256 KiB.
pub const RUN: u64 = 64;

/// Places of `count` runs of `length` blocks among `blocks`, none over another, in order. Fewer if `blocks` is too small
/// for as many.
pub fn places(blocks: u64, count: u64, length: u64, seed: u64) -> Vec<Range<u64>> {
    let mut noise = Noise::new(seed);
    let mut starts = BTreeSet::<u64>::new();
    // Random starts where there is room for them; more than half full, this would not end soon, so it stops.
    for _ in 0..count.saturating_mul(64) {
        if starts.len() as u64 >= count || blocks < length {
            break;
        }
        let start = noise.below(blocks - length + 1);
        let from = start.saturating_sub(length.saturating_sub(1));
        if starts.range(from..start.saturating_add(length)).next().is_none() {
            starts.insert(start);
        }
    }
    starts.into_iter().map(|start| start..start + length).collect()
}

/// Places of `length` blocks that are 5% of `blocks` in sum.
pub fn five_percent(blocks: u64, length: u64) -> Vec<Range<u64>> {
    places(blocks, blocks.div_ceil(20 * length.max(1)), length, 5)
}

/// The first `blocks` blocks of `image` that are neither zero nor twice in it, in order: whoever lacks one can neither make it
/// nor copy it.
///
/// # Errors
/// The image cannot be read.
pub fn single(image: &Path, blocks: u64) -> Result<Vec<u64>> {
    let reading = || format!("reading {}", image.display());
    let mut file = BufReader::with_capacity(1 << 20, File::open(image).with_context(reading)?);
    let mut places = HashMap::<Digest, Option<u64>>::new();
    let mut block = [0; BLOCK_SIZE];
    for index in 0..blocks {
        file.read_exact(&mut block).with_context(reading)?;
        match places.entry(Digest::of(&block)) {
            Entry::Vacant(place) => _ = place.insert(Some(index)),
            Entry::Occupied(mut place) => _ = place.insert(None),
        }
    }
    places.remove(&Digest::of(&[0; BLOCK_SIZE]));
    let mut single: Vec<u64> = places.into_values().flatten().collect();
    single.sort_unstable();
    Ok(single)
}

/// `count` of `blocks`, at random and in order. Fewer if there are not as many.
pub fn drawn(blocks: &[u64], count: u64, seed: u64) -> Vec<u64> {
    let places = places(blocks.len() as u64, count, 1, seed).into_iter();
    places.filter_map(|place| blocks.get(usize::try_from(place.start).ok()?).copied()).collect()
}

/// Changes the blocks of `image` at `places`: each becomes a copy of another block (so it compresses as blocks of this
/// image do) with a number of its own in it (so it is nowhere else in the old image or the new).
///
/// # Errors
/// The image cannot be read or written.
pub fn change(image: &Path, blocks: u64, places: &[Range<u64>]) -> Result<()> {
    let changing = || format!("changing {}", image.display());
    let file = File::options().read(true).write(true).open(image).with_context(changing)?;
    let mut noise = Noise::new(7);
    for place in places {
        let mut bytes = vec![0; usize::try_from((place.end - place.start) * BLOCK)?];
        let from = noise.below(blocks.saturating_sub(place.end - place.start));
        file.read_exact_at(&mut bytes, from * BLOCK).with_context(changing)?;
        let (chunks, _) = bytes.as_chunks_mut::<BLOCK_SIZE>();
        for (index, chunk) in place.clone().zip(chunks) {
            let number = Noise::new(index).next().to_le_bytes();
            chunk.iter_mut().skip(2048).zip(number).for_each(|(byte, own)| *byte ^= own | 1);
        }
        file.write_all_at(&bytes, place.start * BLOCK).with_context(changing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap_and_stay_inside() {
        for (blocks, length) in [(540_000, RUN), (540_000, 1), (1000, RUN)] {
            let places = five_percent(blocks, length);
            assert_eq!(places.len() as u64, blocks.div_ceil(20 * length));
            assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(places.iter().all(|place| place.end <= blocks && place.end - place.start == length));
        }
        assert_eq!(five_percent(540_000, RUN), five_percent(540_000, RUN));
        assert!(places(10, 1, RUN, 1).is_empty());
        assert_eq!(places(RUN, 3, RUN, 1), std::slice::from_ref(&(0..RUN)));
    }

    #[test]
    fn what_is_drawn_to_be_damaged_is_neither_zero_nor_elsewhere() {
        let image = tempfile::NamedTempFile::new().unwrap();
        // What each block is full of.
        let content = [7, 1, 0, 2, 7, 3, 0, 7, 4, 5];
        let bytes: Vec<u8> = content.iter().flat_map(|byte| [*byte; BLOCK_SIZE]).collect();
        std::fs::write(image.path(), bytes).unwrap();
        assert_eq!(single(image.path(), 10).unwrap(), [1, 3, 5, 8, 9]);
        // A zero block that is there once is no better.
        assert_eq!(single(image.path(), 4).unwrap(), [0, 1, 3]);
        let all = [1, 3, 5, 8, 9];
        assert_eq!(drawn(&all, 5, 1), all);
        for seed in 0..32 {
            let two = drawn(&all, 2, seed);
            assert!(two.len() == 2 && two[0] < two[1] && two.iter().all(|block| all.contains(block)), "{two:?}");
        }
        assert!(drawn(&[], 1, 1).is_empty());
        let told = format!("{:#}", single(image.path(), 11).unwrap_err());
        assert_eq!(told, format!("reading {}: failed to fill whole buffer", image.path().display()));
    }

    #[test]
    fn exactly_the_chosen_blocks_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut old = vec![0; 64 * 4096];
        Noise::new(3).fill(&mut old);
        std::fs::write(&path, &old).unwrap();
        change(&path, 64, &[3..5, 60..61]).unwrap();
        let new = std::fs::read(&path).unwrap();
        let changed: Vec<usize> =
            (0..64).filter(|index| old.chunks(4096).nth(*index) != new.chunks(4096).nth(*index)).collect();
        assert_eq!(changed, [3, 4, 60]);
        let again: BTreeSet<&[u8]> = new.chunks(4096).chain(old.chunks(4096)).collect();
        assert_eq!(again.len(), 64 + 3);
    }
}
