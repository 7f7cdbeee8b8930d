//! What a drive is told to be of no use any more.
//!
//! It helps an SSD, or a thin disk, to write the release faster and to last. What a discarded sector reads as is up to the
//! drive, so nothing may rely on it: neither what the plan wipes nor what it writes is discarded, and only a disk that is
//! wiped as a whole is, whose content nobody needs.

use metalstrap_release::host::Erase;

use super::{Area, Becomes, Plan};
use crate::disk::Disk;
use crate::progress::Progress;

/// Areas begin and end at multiples of this, which is one of every drive's granularity that matters.
const STEP: u64 = 1 << 20;
/// Bytes that are discarded in one call.
const PIECE: u64 = 16 << 30;

/// What of the disk is neither wiped nor written by `plan`.
pub(super) fn areas(plan: &Plan) -> Vec<Area> {
    // An erased disk has nothing left.
    if !matches!(plan.existing, Becomes::Wiped { .. }) || plan.erase != Erase::None {
        return Vec::new();
    }
    let mut taken: Vec<Area> = plan.wipes.iter().flat_map(|step| step.ranges.iter().copied()).collect();
    taken.extend(plan.writes.iter().map(|write| write.area));
    taken.sort_by_key(|area| area.start);
    let mut areas = Vec::new();
    let mut start = 0;
    for area in taken.into_iter().chain([Area { start: plan.disk.size, size: 0 }]) {
        areas.extend(whole_steps(start, area.start));
        start = area.range().end.max(start);
    }
    areas
}

/// Discards `areas`, in pieces: a drive may take long for much.
pub(super) fn discard(disk: &dyn Disk, areas: &[Area], progress: &Progress) -> std::io::Result<()> {
    for area in areas {
        let mut start = area.start;
        while start < area.range().end {
            let size = PIECE.min(area.range().end - start);
            progress.waits_for("telling the drive what is of no use");
            if !disk.discard(start, size)? {
                return Ok(());
            }
            start += size;
        }
    }
    Ok(())
}

/// The whole steps between two positions.
fn whole_steps(start: u64, end: u64) -> Option<Area> {
    let start = start.checked_next_multiple_of(STEP)?;
    let size = (end / STEP * STEP).checked_sub(start).filter(|size| *size > 0)?;
    Some(Area { start, size })
}

#[cfg(test)]
mod tests {
    use metalstrap_release::host::Existing;

    use super::super::tests::{GIB, MIB, disk, host, manifest, plan};
    use super::*;
    use crate::inventory::Contents;

    fn foreign() -> Contents {
        Contents::Foreign { what: vec!["XFS"], areas: Vec::new() }
    }

    #[test]
    fn what_is_neither_wiped_nor_written_is_discarded() {
        let plan = plan(GIB, 512, foreign());
        let shown: Vec<_> = plan.discards.iter().map(|area| (area.start / MIB, area.size / MIB)).collect();
        // Between the 24 MiB of root A and its tail, inside of root B, and inside of the free space; the ESP is written.
        assert_eq!(shown, [(538, 7), (552, 26), (584, 438)]);
        let taken = plan.wipes.iter().flat_map(|step| &step.ranges).chain(plan.writes.iter().map(|write| &write.area));
        for taken in taken {
            for area in &plan.discards {
                let (taken, area) = (taken.range(), area.range());
                assert!(taken.end <= area.start || area.end <= taken.start, "{taken:?} {area:?}");
            }
        }
    }

    #[test]
    fn nothing_is_discarded_that_a_run_may_need() {
        assert_eq!(plan(GIB, 512, Contents::Blank).discards, []);
        let mut erasing = host(Existing::Wipe);
        erasing.erase = Erase::Zeroes;
        assert_eq!(Plan::new(&disk(GIB, 512, foreign()), &manifest(), &erasing).unwrap().discards, []);
    }
}
