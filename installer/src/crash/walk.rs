//! Goes through the points of a run.

use std::sync::Arc;

use super::chance::Chance;
use super::cut::Cut;
use super::points::{Effort, points};
use super::prepared::{Again, Fate, Prepared};
use super::releases::Releases;
use super::scenario::Scenario;
use super::tally::Tally;

/// What becomes of a machine at every point.
pub fn walk(prepared: &Prepared, effort: Effort, seed: u64) -> Tally {
    let mut tally = Tally::new(&prepared.scenario, prepared.sector_size);
    let sector = usize::try_from(prepared.sector_size).unwrap();
    let points = points(&prepared.epochs, sector, effort, &mut Chance::new(seed));
    let flushed = Arc::new(prepared.start.clone());
    for (epoch, points) in prepared.epochs.iter().zip(&points) {
        for point in points {
            let disk = point.cut.leave(&flushed, epoch);
            let again = match (point.rerun || prepared.has_half_a_table(&disk), effort.resumes) {
                (true, _) => Again::Always,
                (false, true) => Again::WhereNothingStarts,
                (false, false) => Again::Never,
            };
            let (fate, why) = prepared.fate(&disk, again);
            tally.count(&point.cut, epoch, fate, why);
        }
        epoch.apply(flushed.as_ref());
    }
    tally
}

/// One point again, as a failure names it (`fresh/512/3/0-4+7/8:0-3`), with all that was written since the last flush.
pub fn replay(point: &str) {
    let parts: Vec<&str> = point.splitn(3, '/').collect();
    let [name, sector_size, cut] = parts[..] else { panic!("{point:?} is no point") };
    let cut: Cut = cut.parse().unwrap();
    let prepared = Prepared::new(Releases::new(Scenario::named(name)), sector_size.parse().unwrap());
    for (number, write) in prepared.epochs[cut.flushes].writes.iter().enumerate() {
        let kept = match cut.torn {
            Some(torn) if torn.write == number => format!("sectors {} to {} of it are there", torn.first, torn.end),
            _ if cut.lost.contains(&number) => "lost".to_owned(),
            _ => "there".to_owned(),
        };
        println!("write {number}: {} bytes at {}: {kept}", write.bytes.len(), write.offset);
    }
    let disk = prepared.left_by(&cut);
    println!("a machine with this disk: {:?}", prepared.judge.boot(&disk));
    let (fate, _) = prepared.fate(&disk, Again::Always);
    println!("{point}: {fate:?}");
    assert!(!matches!(fate, Fate::Lost(_)));
}
