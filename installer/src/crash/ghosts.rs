//! Superblocks of an earlier use of the disk. Whoever looks for one goes by its magic, so that is what must be gone, whatever is
//! left of the rest.

use super::lived::DATA;
use crate::converge::testing::bytes;
use crate::disk::Disk;
use crate::gpt::{self, Image};

/// Of md.
pub const MD: &[u8] = b"\xfc\x4e\x2b\xa9";
/// Bytes that the partition has once it has grown: its end is far from all that a new system makes.
const GROWN: u64 = 16 << 20;

/// Where each of them is, and its magic.
#[derive(Debug, Default)]
pub struct Ghosts(pub Vec<(u64, &'static [u8])>);

impl Ghosts {
    /// Grows the layout's own partition, as an OS may that has nothing behind it, and puts superblocks of md to its end (1.0) and
    /// to that of the disk (0.90).
    pub fn raise(disk: &dyn Disk) -> Self {
        let mut table = gpt::read(disk).unwrap().unwrap();
        table.partitions.retain(|entry| entry.label != "var");
        let data = table.partitions.last_mut().unwrap();
        assert_eq!(data.label, DATA.0);
        data.size = GROWN;
        let places = [data.start + GROWN - 8192, disk.size() - 65536];
        Image::new(&table, disk.size(), disk.sector_size()).unwrap().write(disk).unwrap();
        let mut superblock = bytes(94, 4096);
        superblock[..MD.len()].copy_from_slice(MD);
        places.iter().for_each(|place| disk.write_at(*place, &superblock).unwrap());
        Self(places.map(|place| (place, MD)).to_vec())
    }

    /// Whether one of them is there.
    pub fn haunt(&self, disk: &dyn Disk) -> bool {
        self.0.iter().any(|(place, magic)| {
            let mut found = vec![0; magic.len()];
            disk.read_at(*place, &mut found).unwrap();
            found == *magic
        })
    }
}

#[test]
fn each_superblock_that_is_left_when_the_new_system_starts_is_seen() {
    use std::sync::Arc;

    use super::prepared::{Again, Fate, Prepared};
    use super::releases::Releases;
    use super::scenario::Scenario;
    use crate::disk::Overlay;

    let prepared = Prepared::new(Releases::new(Scenario::named("replace")), 512);
    assert!(prepared.ghosts.haunt(&prepared.start) && !prepared.ghosts.haunt(prepared.end.as_ref()));
    for (place, magic) in &prepared.ghosts.0 {
        let disk: Arc<dyn Disk> = Arc::new(Overlay::new(Arc::clone(&prepared.end)));
        let mut sector = [0; 512];
        sector[..magic.len()].copy_from_slice(magic);
        disk.write_at(*place, &sector).unwrap();
        let lost = "superblocks of an earlier use of the disk are left".to_owned();
        assert_eq!(prepared.fate(&disk, Again::Never).0, Fate::Lost(lost));
    }
}
