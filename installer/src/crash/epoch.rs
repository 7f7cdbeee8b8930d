//! The writes between two flushes, each as a drive may keep or lose it.

use crate::disk::{Disk, Recorded};

/// Data counts as one write a block. A drive may keep any block of a longer write, and where the installer's threads part
/// their writes differs from run to run: so a point means the same in every run.
const UNIT: u64 = 4096;

#[derive(Debug, Clone)]
pub struct Write {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl Write {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// What is written after one flush and before the next.
#[derive(Debug, Clone)]
pub struct Epoch {
    pub writes: Vec<Write>,
}

/// Parts a log at its flushes. The last epoch is what came after the last flush, perhaps nothing.
pub fn epochs(log: &[Recorded]) -> Vec<Epoch> {
    log.split(|what| *what == Recorded::Flush).map(Epoch::new).collect()
}

impl Epoch {
    fn new(log: &[Recorded]) -> Self {
        let mut writes: Vec<Write> = log.iter().flat_map(units).collect();
        let mut places: Vec<_> = writes.iter().map(|write| (write.offset, write.end())).collect();
        places.sort_unstable();
        // The order of writes that do not overlap means nothing here, and is another one in each run.
        if places.windows(2).all(|pair| pair[0].1 <= pair[1].0) {
            writes.sort_by_key(|write| write.offset);
        }
        Self { writes }
    }

    /// Does all of it.
    pub fn apply(&self, disk: &dyn Disk) {
        self.writes.iter().for_each(|write| disk.write_at(write.offset, &write.bytes).unwrap());
    }
}

/// The parts of a write that a drive keeps or loses. Zeroes, which are written in few and long pieces by one thread, stay
/// together.
fn units(what: &Recorded) -> Vec<Write> {
    let Recorded::Write { offset, bytes } = what else { return Vec::new() };
    if bytes.iter().all(|byte| *byte == 0) {
        return vec![Write { offset: *offset, bytes: bytes.clone() }];
    }
    let first = usize::try_from(UNIT - offset % UNIT).unwrap().min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    let mut next = *offset;
    let pieces = std::iter::once(head).chain(rest.chunks(usize::try_from(UNIT).unwrap()));
    let unit = |piece: &[u8]| {
        let offset = next;
        next += piece.len() as u64;
        Write { offset, bytes: piece.to_vec() }
    };
    pieces.map(unit).collect()
}

#[test]
fn a_log_is_parted_at_flushes_and_its_data_into_blocks_in_order() {
    let write = |offset, bytes: Vec<u8>| Recorded::Write { offset, bytes };
    let log = [
        write(8192, vec![1; 4096]),
        write(1024, vec![2; 5120]),
        Recorded::Flush,
        Recorded::Flush,
        write(0, vec![0; 1 << 20]),
        write(4096, vec![3; 512]),
    ];
    let shape: Vec<Vec<_>> = epochs(&log)
        .iter()
        .map(|epoch| epoch.writes.iter().map(|write| (write.offset, write.bytes.len(), write.bytes[0])).collect())
        .collect();
    // The last two overlap: the second one stays the second.
    let expected =
        [vec![(1024, 3072, 2), (4096, 2048, 2), (8192, 4096, 1)], vec![], vec![(0, 1 << 20, 0), (4096, 512, 3)]];
    assert_eq!(shape, expected);
}
