//! An ESP in the hands of mtools, which work on files.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::disk::Region;

const PIECE: u64 = 1 << 16;

/// A copy of an ESP.
#[derive(Debug)]
pub struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    pub fn of(region: &Region) -> Self {
        let image = Self { folder: tempfile::tempdir().unwrap() };
        let file = fs::File::create(image.path()).unwrap();
        file.set_len(region.size).unwrap();
        for start in (0..region.size).step_by(1 << 16) {
            let piece = read(region, start);
            if piece.iter().any(|byte| *byte != 0) {
                file.write_all_at(&piece, start).unwrap();
            }
        }
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("esp")
    }

    /// Runs one of the tools on it; `paths` begin with `::/`.
    pub fn run(&self, tool: &str, paths: &[&str]) -> Output {
        Command::new(tool).arg("-i").arg(self.path()).args(paths).output().unwrap()
    }

    /// Writes what has changed back.
    pub fn back(&self, region: &Region) {
        let file = fs::File::open(self.path()).unwrap();
        for start in (0..region.size).step_by(1 << 16) {
            let (before, mut piece) = (read(region, start), vec![0; 1 << 16]);
            file.read_exact_at(&mut piece, start).unwrap();
            for (offset, (old, new)) in (start..).step_by(4096).zip(before.chunks(4096).zip(piece.chunks(4096))) {
                if old != new {
                    region.write_at(offset, new).unwrap();
                }
            }
        }
    }
}

fn read(region: &Region, start: u64) -> Vec<u8> {
    let mut piece = vec![0; usize::try_from(PIECE).unwrap()];
    region.read_at(start, &mut piece).unwrap();
    piece
}
