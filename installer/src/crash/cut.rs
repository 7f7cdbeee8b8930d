//! A power cut: which writes are there, and which are not.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::epoch::Epoch;
use crate::disk::{Disk, Memory, Overlay};

/// Everything up to a flush is there, and of the writes after it all but those that are lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// How many flushes came before it.
    pub flushes: usize,
    /// The writes since then that are not there, by number.
    pub lost: BTreeSet<usize>,
    /// One of the others, of which only a part is there.
    pub torn: Option<Torn>,
}

/// A write of which some sectors in a row are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Torn {
    pub write: usize,
    /// The first of the sectors, and the one behind the last.
    pub first: usize,
    pub end: usize,
}

impl Cut {
    /// The disk that is left of one where `flushed` has what was flushed, and `epoch` came then.
    pub fn leave(&self, flushed: &Arc<Memory>, epoch: &Epoch) -> Arc<dyn Disk> {
        let disk = Overlay::new(Arc::clone(flushed) as Arc<dyn Disk>);
        let sector = usize::try_from(flushed.sector_size()).unwrap();
        for (number, write) in epoch.writes.iter().enumerate().filter(|(number, _)| !self.lost.contains(number)) {
            let kept = match self.torn {
                Some(torn) if torn.write == number => torn.first * sector..torn.end * sector,
                _ => 0..write.bytes.len(),
            };
            disk.write_at(write.offset + kept.start as u64, &write.bytes[kept]).unwrap();
        }
        Arc::new(disk)
    }

    /// Whether it comes right after a flush, before anything else was kept.
    pub fn is_boundary(&self, epoch: &Epoch) -> bool {
        self.lost.len() == epoch.writes.len()
    }
}

/// `3/0-4+7/8:0-3`: after three flushes, without the writes 0 to 4 and 7, and of write 8 only the sectors before 3.
impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<usize> = self.lost.iter().copied().collect();
        let shown = |run: &[usize]| match run {
            [first, .., last] => format!("{first}-{last}"),
            one => one.iter().map(ToString::to_string).collect(),
        };
        let lost: Vec<String> = numbers.chunk_by(|one, next| one + 1 == *next).map(shown).collect();
        write!(f, "{}/{}/", self.flushes, lost.join("+"))?;
        self.torn.iter().try_for_each(|Torn { write, first, end }| write!(f, "{write}:{first}-{end}"))
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no cut, as 3/0-4+7/8:0-3 is");
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        let [flushes, lost, torn] = text.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let mut cut = Self { flushes: number(flushes)?, lost: BTreeSet::new(), torn: None };
        for run in lost.split('+').filter(|run| !run.is_empty()) {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            cut.lost.extend(number(first)?..=number(last)?);
        }
        if let Some((write, sectors)) = torn.split_once(':') {
            let (first, end) = sectors.split_once('-').ok_or_else(wrong)?;
            cut.torn = Some(Torn { write: number(write)?, first: number(first)?, end: number(end)? });
        }
        Ok(cut)
    }
}

#[test]
fn a_cut_reads_back_as_it_was_written() {
    for text in ["3/0-4+7/8:0-3", "0//", "12/5/", "1//0:2-8"] {
        assert_eq!(text.parse::<Cut>().unwrap().to_string(), text);
    }
    let cut: Cut = "3/0-4+7/8:0-3".parse().unwrap();
    assert_eq!(cut.lost, BTreeSet::from([0, 1, 2, 3, 4, 7]));
    assert_eq!(cut.torn, Some(Torn { write: 8, first: 0, end: 3 }));
    for text in ["", "3", "3/x/", "3/0//", "3//8:1"] {
        assert_eq!(text.parse::<Cut>().unwrap_err(), format!("{text:?} is no cut, as 3/0-4+7/8:0-3 is"));
    }
}

#[test]
fn a_cut_leaves_what_it_says() {
    let flushed = Arc::new(Memory::new(1 << 20, 512));
    flushed.write_at(0, &[9; 4096]).unwrap();
    let write = |offset, byte| super::epoch::Write { offset, bytes: vec![byte; 2048] };
    let epoch = Epoch { writes: vec![write(0, 1), write(2048, 2), write(4096, 3)] };
    let disk = "0/0/1:1-3".parse::<Cut>().unwrap().leave(&flushed, &epoch);
    let mut found = [0; 6144];
    disk.read_at(0, &mut found).unwrap();
    let expected = [&[9_u8; 2048 + 512][..], &[2; 1024], &[9; 512], &[3; 2048]].concat();
    assert!(found[..] == expected);
}
