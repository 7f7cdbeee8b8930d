//! Where the sections of a UKI lie, in the file and in memory.

use super::{Section, UkiError, malformed};

/// Refuses sections, each with its address, that share bytes with each other or with the headers, which end at `headers`: what
/// is measured, checked and started would not be the same.
pub(super) fn check(sections: &[(Section, u64)], headers: u64) -> Result<(), UkiError> {
    for (index, (section, address)) in sections.iter().enumerate() {
        check_headers(section, *address, headers)?;
        for (other, other_address) in sections.iter().take(index) {
            let shared = |place: &str| {
                malformed(format!("has sections that overlap in {place}: {} and {}", other.name, section.name))
            };
            if overlap(in_file(other), in_file(section)) {
                return shared("the file");
            }
            // At address 0 are the headers: a section that says so has not been placed at all.
            let placed = *address != 0 && *other_address != 0;
            if placed && overlap((*other_address, other.virtual_size), (*address, section.virtual_size)) {
                return shared("memory");
            }
        }
    }
    Ok(())
}

fn check_headers(section: &Section, address: u64, headers: u64) -> Result<(), UkiError> {
    let over = |place: &str| malformed(format!("has a section {} that overlaps its headers in {place}", section.name));
    if overlap((0, headers), in_file(section)) {
        return over("the file");
    }
    if address != 0 && overlap((0, headers), (address, section.virtual_size)) {
        return over("memory");
    }
    Ok(())
}

fn in_file(section: &Section) -> (u64, u64) {
    (section.file_offset, section.raw_size)
}

/// Whether two ranges, each of a start and a size, share a byte.
fn overlap((start, size): (u64, u64), (other_start, other_size): (u64, u64)) -> bool {
    start.max(other_start) < (start + size).min(other_start + other_size)
}
