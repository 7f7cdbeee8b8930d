//! Missing blocks that others of them must be equal to. Half of an image may be blocks that its other half has too, so that is
//! flat: 4 bytes for each.

use metalstrap_release::digest::Digest;
use metalstrap_release::verity::TreeError;

use super::blocks::BlockSet;

/// Of the last block of a group.
const LAST: u32 = 1 << 31;

/// Groups of blocks that must have the same content, each in order.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    first: u64,
    /// All of them, counted from `first`, group by group; [`LAST`] is where a group ends.
    members: Vec<u32>,
}

impl Repeats {
    /// None yet, of blocks from `first` on.
    pub fn new(first: u64) -> Self {
        Self { first, members: Vec::new() }
    }

    /// Adds those of `blocks`, whose digests begin alike, that have the same `digest_of` as another.
    ///
    /// # Errors
    /// The digest's.
    pub fn add(
        &mut self,
        mut blocks: impl Iterator<Item = u64>,
        digest_of: &mut dyn FnMut(u64) -> Result<Option<Digest>, TreeError>,
    ) -> Result<(), TreeError> {
        let (Some(first), Some(second)) = (blocks.next(), blocks.next()) else { return Ok(()) };
        // Nearly always all of them have.
        let mut groups: Vec<(Option<[u8; 32]>, Vec<u32>)> = Vec::new();
        for block in [first, second].into_iter().chain(blocks) {
            // One that is too far off for a number is fetched by itself.
            let Some(number) = self.number(block) else { continue };
            let digest = digest_of(block)?.map(|digest| digest.0);
            match groups.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, members)) => members.push(number),
                None => groups.push((digest, vec![number])),
            }
        }
        for (_, mut members) in groups {
            if members.len() > 1
                && let Some(last) = members.last_mut()
            {
                *last |= LAST;
                self.members.append(&mut members);
            }
        }
        Ok(())
    }

    /// Gives back memory that no block needs.
    pub fn shrink(&mut self) {
        self.members.shrink_to_fit();
    }

    /// The block with this number.
    pub fn block(&self, number: u32) -> u64 {
        self.first.saturating_add(u64::from(number))
    }

    /// The number of a block, if it can have one.
    pub fn number(&self, block: u64) -> Option<u32> {
        let number = u32::try_from(block.checked_sub(self.first)?).ok()?;
        (number & LAST == 0).then_some(number)
    }

    /// Where what `have` lacks of each group begins, of groups of which it lacks several blocks; in the order of the content.
    pub fn missing(&self, have: &BlockSet) -> Vec<u32> {
        let mut groups = Vec::new();
        let (mut begins, mut several) = (None, false);
        for (place, member) in (0_u32..).zip(&self.members) {
            if !have.contains(self.block(member & !LAST)) {
                several = begins.is_some();
                begins = begins.or(Some(place));
            }
            if member & LAST != 0 {
                groups.extend(begins.filter(|_| several));
                (begins, several) = (None, false);
            }
        }
        groups.sort_unstable_by_key(|place| self.members(*place).next());
        groups
    }

    /// The numbers of a group from a place on, in order.
    pub fn members(&self, place: u32) -> impl Iterator<Item = u32> {
        let rest = usize::try_from(place).ok().and_then(|place| self.members.get(place..)).unwrap_or_default();
        rest.iter().scan(false, |ended, member| {
            let number = (!*ended).then_some(member & !LAST);
            *ended = *ended || member & LAST != 0;
            number
        })
    }
}
