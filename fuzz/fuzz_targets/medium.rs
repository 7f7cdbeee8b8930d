//! A medium with any bytes: its file systems are read to an end, nothing is longer than allowed, and every setting of the file
//! stands in it.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../installer/src/media/fat.rs"]
mod fat;
#[path = "../../installer/src/media/iso9660.rs"]
mod iso9660;

use std::io;

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::discovery::medium::{self, MAX_BYTES};

type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> io::Result<()>;

/// The volume descriptors of a disc begin there: what is before them says nothing.
const DESCRIPTORS: u64 = 16 * 2048;

fuzz_target!(|bytes: &[u8]| {
    let read = |at: u64, buffer: &mut [u8]| -> io::Result<()> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let found = start.checked_add(buffer.len()).and_then(|end| bytes.get(start..end));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    };
    let behind = |at: u64, buffer: &mut [u8]| read(at.saturating_sub(DESCRIPTORS), buffer);
    let mut files = vec![bytes.to_vec()];
    if let Ok(Some(volume)) = fat::Volume::open(&read) {
        let _: io::Result<String> = volume.label();
        files.extend(volume.file(b"SETTINGSTXT", MAX_BYTES).ok().flatten());
    }
    if let Ok(Some(volume)) = iso9660::Volume::open(&behind) {
        assert!(volume.label.chars().count() <= 32);
        files.extend(volume.file("SETTINGS.TXT", MAX_BYTES).ok().flatten());
    }
    for file in files.iter().skip(1) {
        assert!(u32::try_from(file.len()).unwrap() <= MAX_BYTES);
    }
    for file in &files {
        let Ok(words) = medium::words(file) else { continue };
        assert!(words.len() <= file.iter().filter(|byte| **byte == b'\n').count() + 1);
        for word in words {
            assert!(word.key.is_empty() || file.windows(word.key.len()).any(|window| window == word.key));
        }
    }
});
