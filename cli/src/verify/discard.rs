//! A disk that keeps nothing but the digest of what is written to it from its start on.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use metalstrap_installer::disk::{Disk, Region};
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::BLOCK;
use sha2::{Digest as _, Sha256};

/// The disk.
#[derive(Debug)]
pub struct Discard {
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    hasher: Sha256,
    /// The last bytes written, up to a block: the padding of a file is among them.
    tail: Vec<u8>,
}

impl Discard {
    /// A disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, state: Mutex::default() }
    }

    /// All of it.
    pub fn region(disk: &Arc<Self>) -> Region {
        Region { disk: Arc::<Self>::clone(disk), start: 0, size: disk.size }
    }

    /// The digest of the first `size` bytes, of which all but less than a block were written.
    ///
    /// # Errors
    /// More or less was written.
    pub fn digest(&self, size: u64) -> Result<Digest> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let hashed = state.next - state.tail.len() as u64;
        let rest = size.checked_sub(hashed).and_then(|rest| usize::try_from(rest).ok());
        let tail = rest.and_then(|rest| state.tail.get(..rest)).context("another length was written")?;
        Ok(Digest(state.hasher.clone().chain_update(tail).finalize().into()))
    }
}

impl Disk for Discard {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(ErrorKind::Unsupported, "nothing is kept"))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != state.next {
            return Err(io::Error::new(ErrorKind::Unsupported, "written out of order"));
        }
        state.next += bytes.len() as u64;
        let tail = std::mem::take(&mut state.tail);
        state.hasher.update(tail);
        let block = usize::try_from(BLOCK).unwrap_or(bytes.len());
        let (body, tail) = bytes.split_at(bytes.len().saturating_sub(block));
        state.hasher.update(body);
        state.tail = tail.to_vec();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_file_without_its_padding() {
        let mut file = vec![7; 10_000];
        let disk = Discard::new(12_288);
        file.resize(12_288, 0);
        disk.write_at(0, &file[..4096]).unwrap();
        disk.write_at(4096, &file[4096..]).unwrap();
        assert_eq!(disk.digest(10_000).unwrap(), Digest::of(&file[..10_000]));
        assert_eq!(disk.digest(12_288).unwrap(), Digest::of(&file));
        assert_eq!(disk.digest(12_289).unwrap_err().to_string(), "another length was written");
        assert_eq!(disk.write_at(0, &[1; 512]).unwrap_err().to_string(), "written out of order");
    }
}
