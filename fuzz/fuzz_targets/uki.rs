//! Any bytes as a UKI: its sections can be read or are refused, within the limit, and so is what they make of PCR 11. One that can
//! be split has all of what its sections say.
#![cfg_attr(fuzzing, no_main)]

use std::io::Cursor;

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::pcr::{Bank, Extension, MEASURED, extensions};
use metalstrap_release::uki::{Section, Sections, cmdline_limit, read_section};

const LIMIT: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    for section in Sections::parse(bytes).iter().flatten() {
        if let Ok(content) = read_section(&mut Cursor::new(bytes), section, LIMIT) {
            assert_eq!(content.len() as u64, section.virtual_size);
            let _ = cmdline_limit(&content);
        }
    }
    let _ = cmdline_limit(bytes);
    let stored: Vec<_> =
        Sections::parse(bytes).iter().flatten().filter(|section| section.raw_size > 0).cloned().collect();
    for (index, one) in stored.iter().enumerate() {
        let apart = |other: &Section| {
            one.file_offset + one.raw_size <= other.file_offset || other.file_offset + other.raw_size <= one.file_offset
        };
        assert!(stored.iter().skip(index + 1).all(apart), "{stored:?}");
    }
    for profile in 0..3 {
        let Ok(sections) = Sections::parse_profile(bytes, profile) else { continue };
        if sections.check_split(bytes.len() as u64).is_ok() {
            let mut small = sections.iter().filter(|section| section.virtual_size <= LIMIT);
            let read = |section: &Section| read_section(&mut Cursor::new(bytes), section, LIMIT).is_ok();
            assert!(small.all(read), "{sections:?}");
        }
        if sections.iter().all(|section| section.virtual_size <= LIMIT) {
            let Ok(measured) = extensions(&mut Cursor::new(bytes), &sections, &[Bank::Sha256]) else { continue };
            let place = |extension: &Extension| MEASURED.iter().position(|name| *name == extension.section);
            let places: Vec<_> = measured.iter().map(|extension| place(extension).unwrap()).collect();
            assert!(places.is_sorted() && places.chunks(2).all(|pair| pair[0] == pair[1]), "{places:?}");
        }
    }
});
