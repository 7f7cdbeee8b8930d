//! Sizes and places of new partitions, by the rules of systemd-repart (systemd 252 to 258, src/repart/repart.c:
//! `context_allocate_partitions`, `context_grow_partitions_on_free_area`, `context_place_partitions`). Arithmetic only.
//!
//! Each partition goes into the smallest free area that still has its least size and padding. Then each area is
//! shared out: sizes and paddings get the part that their weight is of all weights, but for those whose least value is
//! larger (they get that) and those whose largest value is smaller (they get that). What is left goes to the partitions
//! in turn, as far as they take it. `docs/design.md` lists where this differs from systemd-repart.

use metalstrap_release::manifest::{DataPartition, GRAIN};

use super::Area;

/// Least size of a partition that names none (`DEFAULT_MIN_SIZE`).
const DEFAULT_SIZE_MIN: u64 = 10 << 20;

/// Where a partition comes to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// A partition that no free area has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Which of the partitions.
    pub index: usize,
    /// Bytes that it needs at least, with its padding.
    pub needed: u64,
    /// Bytes that the largest area has left.
    pub largest: u64,
}

/// Bytes that a partition and the padding behind it need at least.
pub(super) fn needed(partition: &DataPartition) -> u64 {
    up(Claim::size(partition).least.saturating_add(Claim::padding(partition).least))
}

/// The places of `partitions` in the `free` areas, in the order of the partitions.
///
/// # Errors
/// The first partition that no area has room for.
pub(super) fn places(partitions: &[&DataPartition], free: &[Area]) -> Result<Vec<Place>, Misfit> {
    let mut shelves: Vec<Shelf<'_>> = free.iter().map(Shelf::new).collect();
    shelves.sort_by_key(|shelf| shelf.left);
    for (index, partition) in partitions.iter().enumerate() {
        let needed = needed(partition);
        let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.left >= needed) else {
            let largest = shelves.iter().map(|shelf| shelf.left).max().unwrap_or(0);
            return Err(Misfit { index, needed, largest });
        };
        shelf.left = shelf.left.saturating_sub(needed);
        shelf.takes.push((index, partition));
    }
    let mut places: Vec<(usize, Place)> = shelves.iter().flat_map(Shelf::places).collect();
    places.sort_by_key(|(index, _)| *index);
    Ok(places.into_iter().map(|(_, place)| place).collect())
}

/// A free area and what goes into it.
struct Shelf<'a> {
    start: u64,
    size: u64,
    /// Bytes that no partition needs yet.
    left: u64,
    /// The partitions, each with its number.
    takes: Vec<(usize, &'a DataPartition)>,
}

impl<'a> Shelf<'a> {
    fn new(area: &Area) -> Self {
        let start = up(area.start);
        let size = down(area.range().end).saturating_sub(start);
        Self { start, size, left: size, takes: Vec::new() }
    }

    fn places(&self) -> Vec<(usize, Place)> {
        let claims = |(_, partition): &(usize, &DataPartition)| [Claim::size(partition), Claim::padding(partition)];
        let mut claims: Vec<[Claim; 2]> = self.takes.iter().map(claims).collect();
        let mut left = share_out(claims.as_flattened_mut(), self.size);
        for [size, _] in &mut claims {
            let more = left.min(size.most.saturating_sub(size.given()));
            size.given = Some(size.given().saturating_add(more));
            left = left.saturating_sub(more);
        }
        let mut next = self.start;
        let place = |((index, _), [size, padding]): (&(usize, &DataPartition), &[Claim; 2])| {
            let place = Place { start: next, size: size.given() };
            next = next.saturating_add(size.given()).saturating_add(padding.given());
            (*index, place)
        };
        self.takes.iter().zip(&claims).map(place).collect()
    }
}

/// What a partition, or the padding behind it, may get of an area. All sizes are multiples of [`GRAIN`].
struct Claim {
    least: u64,
    most: u64,
    weight: u64,
    given: Option<u64>,
}

impl Claim {
    fn new(least: u64, most: Option<u64>, weight: u32) -> Self {
        let least = up(least);
        let most = down(most.unwrap_or(u64::MAX)).max(least);
        Self { least, most, weight: weight.into(), given: None }
    }

    fn size(partition: &DataPartition) -> Self {
        let least = partition.size_min.unwrap_or(DEFAULT_SIZE_MIN).max(GRAIN);
        Self::new(least, partition.size_max, partition.weight)
    }

    fn padding(partition: &DataPartition) -> Self {
        Self::new(partition.padding_min, partition.padding_max, partition.padding_weight)
    }

    fn given(&self) -> u64 {
        self.given.unwrap_or(self.least)
    }
}

/// A phase of sharing out (`GrowPartitionPhase`).
#[derive(Clone, Copy)]
enum Phase {
    /// Who needs more than its share gets what it needs.
    Overcharge,
    /// Who takes less than its share gets what it takes.
    Undercharge,
    /// The others get their shares.
    Distribute,
}

/// Shares `span` bytes out to the claims, and returns what is left.
fn share_out(claims: &mut [Claim], mut span: u64) -> u64 {
    let mut weights: u64 = claims.iter().map(|claim| claim.weight).sum();
    for phase in [Phase::Overcharge, Phase::Undercharge, Phase::Distribute] {
        // Whoever gets something changes the shares of the others.
        while charge(claims, phase, &mut span, &mut weights) {}
    }
    span
}

/// Goes once through the claims that got nothing yet. Whether one of them got something.
fn charge(claims: &mut [Claim], phase: Phase, span: &mut u64, weights: &mut u64) -> bool {
    let mut charged = false;
    for claim in claims.iter_mut().filter(|claim| claim.given.is_none()) {
        let share = share(*span, claim.weight, *weights);
        let given = match phase {
            Phase::Overcharge if claim.least > share => claim.least,
            Phase::Undercharge if claim.most < share => claim.most,
            Phase::Distribute => down(share).clamp(claim.least, claim.most),
            Phase::Overcharge | Phase::Undercharge => continue,
        };
        claim.given = Some(given);
        *span = span.saturating_sub(given);
        *weights = weights.saturating_sub(claim.weight);
        charged = true;
    }
    charged
}

/// The part of `value` that `weight` is of `weights`. Where the product is too large for 64 bits, both weights are halved,
/// as systemd-repart does it (`scale_by_weight`), so that the result is the same on the largest disks too.
fn share(value: u64, mut weight: u64, mut weights: u64) -> u64 {
    loop {
        if weight == 0 {
            return 0;
        }
        if weight >= weights {
            return value;
        }
        if let Some(product) = value.checked_mul(weight) {
            return product / weights;
        }
        (weight, weights) = (weight / 2, weights.div_ceil(2));
    }
}

/// The next multiple of [`GRAIN`], as long as 64 bits hold one.
fn up(bytes: u64) -> u64 {
    down(bytes.saturating_add(GRAIN - 1))
}

fn down(bytes: u64) -> u64 {
    bytes - bytes % GRAIN
}

#[cfg(test)]
mod tests;
