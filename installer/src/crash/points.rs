//! Which cuts are looked at.

use std::collections::BTreeSet;

use super::chance::Chance;
use super::cut::{Cut, Torn};
use super::epoch::Epoch;

/// Of so few writes every subset is looked at.
const FEW: usize = 6;

/// How many cuts are looked at, beside those at every flush.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Cuts that lose a single write, in each epoch.
    pub singles: usize,
    /// Subsets that are drawn, in all epochs together.
    pub subsets: usize,
    /// Cuts that get a second run, beside those at every flush.
    pub reruns: usize,
    /// Whether all at which nothing starts get one.
    pub resumes: bool,
}

/// A cut that is looked at.
#[derive(Debug)]
pub struct Point {
    pub cut: Cut,
    /// Whether the installer is run again on what it leaves.
    pub rerun: bool,
}

/// The points of each epoch, in order.
pub fn points(epochs: &[Epoch], sector: usize, effort: Effort, chance: &mut Chance) -> Vec<Vec<Point>> {
    let numbered = || epochs.iter().enumerate();
    let mut cuts: Vec<BTreeSet<Cut>> =
        numbered().map(|(flushes, epoch)| drops(flushes, epoch.writes.len(), effort.singles, chance)).collect();
    // Every epoch gets as many, whatever its length: the short ones are those that matter most. Some have no more than a
    // few subsets, so not every draw is a new one.
    let varied: Vec<_> = numbered().filter(|(_, epoch)| varies(epoch, sector)).map(|(flushes, _)| flushes).collect();
    let mut missing = effort.subsets;
    for flushes in varied.iter().copied().cycle().take(effort.subsets * 8) {
        if missing == 0 {
            break;
        }
        let drawn = draw(flushes, &epochs[flushes], sector, chance);
        missing -= usize::from(cuts[flushes].insert(drawn));
    }
    let each = effort.reruns.div_ceil(varied.len().max(1));
    let chosen = cuts.into_iter().zip(epochs).map(|(cuts, epoch)| {
        let again: BTreeSet<usize> = (0..each).map(|_| chance.below(cuts.len())).collect();
        let point = |(number, cut): (usize, Cut)| {
            let rerun = cut.is_boundary(epoch) || again.contains(&number);
            Point { cut, rerun }
        };
        cuts.into_iter().enumerate().map(point).collect::<Vec<Point>>()
    });
    chosen.collect()
}

/// The cut that loses all of `count` writes, those that lose one of them, and of few writes every other one; that all of
/// them are there is the next epoch's first cut.
fn drops(flushes: usize, count: usize, singles: usize, chance: &mut Chance) -> BTreeSet<Cut> {
    let cut = |lost: BTreeSet<usize>| Cut { flushes, lost, torn: None };
    let mut cuts = BTreeSet::from([cut((0..count).collect())]);
    if count <= FEW {
        let subset = |bits: usize| cut((0..count).filter(|number| bits & (1 << number) != 0).collect());
        cuts.extend((1..1 << count).map(subset));
    } else if count <= singles {
        cuts.extend((0..count).map(|number| cut(BTreeSet::from([number]))));
    } else {
        cuts.extend((0..singles).map(|_| cut(BTreeSet::from([chance.below(count)]))));
    }
    cuts
}

/// Whether there is more to an epoch than [`drops`] has.
fn varies(epoch: &Epoch, sector: usize) -> bool {
    epoch.writes.len() > FEW || epoch.writes.iter().any(|write| write.bytes.len() > sector)
}

/// A subset of an epoch's writes, of one of the kinds that drives leave.
fn draw(flushes: usize, epoch: &Epoch, sector: usize, chance: &mut Chance) -> Cut {
    let count = epoch.writes.len();
    let some = |most: usize, chance: &mut Chance| -> BTreeSet<usize> {
        (0..=chance.below(most)).map(|_| chance.below(count)).collect()
    };
    let lost: BTreeSet<usize> = match chance.below(5) {
        0 => (0..count).filter(|_| chance.coin()).collect(),
        // All from some place on.
        1 => (chance.below(count)..count).collect(),
        2 => {
            let first = chance.below(count);
            (first..=first + chance.below(count - first)).collect()
        }
        3 => some(4, chance),
        _ => {
            let kept = some(4, chance);
            (0..count).filter(|number| !kept.contains(number)).collect()
        }
    };
    let torn = if count <= FEW || chance.coin() { tear(epoch, &lost, sector, chance) } else { None };
    Cut { flushes, lost, torn }
}

/// Tears one of the writes that are there, if one has several sectors: its beginning is kept, or a piece of it.
fn tear(epoch: &Epoch, lost: &BTreeSet<usize>, sector: usize, chance: &mut Chance) -> Option<Torn> {
    let sectors = |number: usize| epoch.writes[number].bytes.len() / sector;
    let whole = (0..epoch.writes.len()).filter(|number| !lost.contains(number) && sectors(*number) > 1);
    let whole: Vec<usize> = whole.collect();
    let write = *whole.get(chance.below(whole.len()))?;
    let first = if chance.coin() { 0 } else { chance.below(sectors(write)) };
    let most = sectors(write) - first - usize::from(first == 0);
    Some(Torn { write, first, end: first + 1 + chance.below(most) })
}

#[cfg(test)]
mod tests {
    use super::super::epoch::Write;
    use super::*;

    fn epoch(count: u64) -> Epoch {
        Epoch { writes: (0..count).map(|n| Write { offset: n * 4096, bytes: vec![1; 4096] }).collect() }
    }

    #[test]
    fn every_flush_every_single_write_and_enough_subsets_are_there() {
        let epochs = [epoch(3), epoch(0), epoch(500), epoch(1)];
        let effort = Effort { singles: usize::MAX, subsets: 1000, reruns: 30, resumes: false };
        let points = points(&epochs, 512, effort, &mut Chance::new(1));
        for (points, epoch) in points.iter().zip(&epochs) {
            let boundary =
                points.iter().find(|point| point.cut.is_boundary(epoch) && point.cut.torn.is_none()).unwrap();
            assert!(boundary.rerun);
            for number in 0..epoch.writes.len() {
                let alone = BTreeSet::from([number]);
                assert!(points.iter().any(|point| point.cut.lost == alone && point.cut.torn.is_none()));
            }
            for Torn { write, first, end } in points.iter().filter_map(|point| point.cut.torn) {
                assert!(first < end && end <= 8 && end - first < 8 && write < epoch.writes.len());
            }
        }
        // All subsets of three writes but the empty one, and 1000 drawn ones.
        let singles = 7 + 1 + 501 + 1;
        assert_eq!(points.iter().map(Vec::len).sum::<usize>(), singles + 1000);
        assert!(points.iter().flatten().filter(|point| point.rerun).count() >= 20);
    }

    #[test]
    fn the_same_seed_gives_the_same_points() {
        let effort = Effort { singles: 10, subsets: 50, reruns: 5, resumes: false };
        let shown = |seed| {
            let points = points(&[epoch(100), epoch(7)], 512, effort, &mut Chance::new(seed));
            points.into_iter().flatten().map(|point| format!("{} {}", point.cut, point.rerun)).collect::<Vec<_>>()
        };
        assert_eq!(shown(7), shown(7));
        assert_ne!(shown(7), shown(8));
    }
}
