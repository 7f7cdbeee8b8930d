//! An ESP of which a run of ours was cut before its file system was there. Its boot sector is written last of all, after the
//! copy of it and FSInfo, so these may be there, or some of their sectors.

use metalstrap_release::manifest::ATTEMPTS;

use super::BootFiles;
use crate::fat::{self, RESERVED_SECTORS, ReadAt};

/// Whether nothing that was ever started is lost if a file system is made on the partition: it has no boot sector, and what
/// is before the FATs is all zeroes, or the rest is that of a fresh one, which has one UKI that was never started. Where
/// somebody has lost the boot sector of one that was in use, there is something to mend.
pub(super) fn is_unmade(size: u64, sector: u32, read: ReadAt<'_>) -> bool {
    let bytes = usize::try_from(sector).unwrap_or_default();
    let mut reserved = vec![0; usize::from(RESERVED_SECTORS).saturating_mul(bytes)];
    if read(0, &mut reserved).is_err() {
        return false;
    }
    let Some((boot, others)) = reserved.split_at_checked(bytes) else { return false };
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    is_zero(boot) && (is_zero(others) || is_fresh(size, sector, read))
}

/// Whether the partition has the FATs, directories and names of a fresh file system of ours, whose boot sector is known without
/// reading it.
fn is_fresh(size: u64, sector: u32, read: ReadAt<'_>) -> bool {
    let Some(boot) = fat::first_sector(size, sector) else { return false };
    let with_boot_sector = |offset: u64, buffer: &mut [u8]| {
        read(offset, buffer)?;
        if offset == 0 {
            buffer.iter_mut().zip(&boot).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    };
    let files = BootFiles::read(size, sector, &with_boot_sector);
    let ukis = files.map(|files| files.ukis).unwrap_or_default();
    matches!(ukis.as_slice(), [uki] if uki.tries_left() == Some(ATTEMPTS) && !uki.was_tried())
}

#[cfg(test)]
mod tests {
    use super::super::EspContents;
    use crate::disk::{Disk as _, Memory};
    use crate::fat::{File, Layout, Stage};

    const SIZE: u64 = 512 << 20;

    #[test]
    fn an_esp_that_begins_with_zeroes_is_not_made_yet() {
        for sector in [512_u32, 4096] {
            // With another byte somewhere.
            let found = |other: Option<u64>| {
                EspContents::read(SIZE, sector, &|offset, buffer: &mut [u8]| {
                    buffer.fill(0);
                    let inside = other.and_then(|at| usize::try_from(at.checked_sub(offset)?).ok());
                    if let Some(byte) = inside.and_then(|at| buffer.get_mut(at)) {
                        *byte = 1;
                    }
                    Ok(())
                })
            };
            let fats = 32 * u64::from(sector);
            assert_eq!([found(None), found(Some(fats))], [EspContents::Unmade, EspContents::Unmade]);
            let copy = 6 * u64::from(sector);
            let damaged = [0, copy, fats - 1].map(|at| found(Some(at)));
            assert_eq!(damaged, [EspContents::Absent, EspContents::Absent, EspContents::Absent]);
        }
    }

    /// A file system with these UKIs, written up to and with `last`.
    fn written(sector: u32, ukis: &[&str], last: Stage) -> Memory {
        let file = |path: String| File { path, size: 9000 };
        let mut files = vec![file("EFI/BOOT/BOOTX64.EFI".to_owned())];
        files.extend(ukis.iter().map(|name| file(format!("EFI/Linux/{name}"))));
        let layout = Layout::new(SIZE, sector, 7, "ESP", &files).unwrap();
        let memory = Memory::new(SIZE, sector);
        for stage in [Stage::Invalidate, Stage::Tables, Stage::Publish, Stage::Reserved, Stage::BootSector] {
            layout.writes(stage).for_each(|write| memory.write_at(write.offset, &write.bytes).unwrap());
            if stage == last {
                break;
            }
        }
        memory
    }

    fn seen(memory: &Memory, sector: u32) -> EspContents {
        EspContents::read(SIZE, sector, &|offset, buffer: &mut [u8]| memory.read_at(offset, buffer))
    }

    #[test]
    fn an_esp_that_lacks_its_boot_sector_alone_is_not_made_yet_if_nothing_on_it_was_started() {
        for sector in [512_u32, 4096] {
            for last in [Stage::Tables, Stage::Publish, Stage::Reserved] {
                assert_eq!(seen(&written(sector, &["a_1+3.efi"], last), sector), EspContents::Unmade, "{last:?}");
            }
            let made = seen(&written(sector, &["a_1+3.efi"], Stage::BootSector), sector);
            assert!(matches!(made, EspContents::Volume(_)), "{made:?}");
            // A write that was torn: FSInfo alone, the copy of the boot sector alone.
            for lost in [6, 1] {
                let torn = written(sector, &["a_1+3.efi"], Stage::Reserved);
                torn.write_at(lost * u64::from(sector), &vec![0; usize::try_from(sector).unwrap()]).unwrap();
                assert_eq!(seen(&torn, sector), EspContents::Unmade, "{lost}");
            }
            // What has been started, or has another one beside it, was there once.
            for ukis in [&["a_1.efi"][..], &["a_1+2-1.efi"], &["a_1+3.efi", "a_2+3.efi"], &[]] {
                assert_eq!(seen(&written(sector, ukis, Stage::Reserved), sector), EspContents::Absent, "{ukis:?}");
            }
        }
    }
}
