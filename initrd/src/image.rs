//! Compresses archives for the kernel, and keeps what is expensive to make.
//!
//! The kernel unpacks any number of compressed archives one after the other (kernel: `init/initramfs.c`), so what
//! seldom changes is an archive of its own.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use metalstrap_release::digest::Digest;
use tempfile::NamedTempFile;

use crate::cpio::pad;

/// Drivers of Debian's generic kernel (60 MB): level 9 takes 2.5 s for 12.1 MB, 12 takes 4.7 s for 12.0, 19 takes 45 s
/// for 10.7. An operator waits for this at every new kernel.
const LEVEL: i32 = 9;
/// The kernel allocates the window while it unpacks (kernel: `lib/decompress_unzstd.c`): 8 MiB, which machines of
/// 512 MiB have to spare.
const WINDOW_LOG: u32 = 23;

/// `archive` as one zstd frame, padded with zeroes to 4 bytes as the boot stub expects of each initrd.
///
/// # Errors
///
/// None in practice: memory is the only thing that can run out.
pub fn compress(archive: &[u8]) -> Result<Vec<u8>> {
    let compressing = "compressing an archive";
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).context(compressing)?;
    encoder.window_log(WINDOW_LOG).context(compressing)?;
    encoder.include_checksum(true).context(compressing)?;
    encoder.set_pledged_src_size(Some(archive.len().try_into()?)).context(compressing)?;
    encoder.write_all(archive).context(compressing)?;
    let mut out = encoder.finish().context(compressing)?;
    pad(&mut out);
    Ok(out)
}

/// A directory of things made before, named by the digest of what they are made of.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// A cache in `dir`, which is made when something is kept.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// What was kept under `key`, or what `make` makes, kept from now on.
    ///
    /// # Errors
    ///
    /// What `make` returns, or that the directory cannot be written.
    pub fn get(&self, key: &Digest, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let path = self.dir.join(key.to_string());
        if let Some(kept) = std::fs::read(&path).ok().and_then(sound) {
            return Ok(kept);
        }
        let made = make()?;
        let keeping = || format!("keeping {}", path.display());
        // What is kept here goes into the image: nobody else may write to it.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).with_context(keeping)?;
        // Appears whole or not at all: two builds may run at the same time, also as threads of one process.
        let mut part = NamedTempFile::new_in(&self.dir).with_context(keeping)?;
        part.write_all(&Digest::of(&made).0)
            .and_then(|()| part.write_all(&made))
            .and_then(|()| part.as_file().sync_all())
            .with_context(keeping)?;
        part.persist(&path).with_context(keeping)?;
        Ok(made)
    }
}

/// What was kept behind its digest; `None` if it is damaged.
fn sound(kept: Vec<u8>) -> Option<Vec<u8>> {
    let (digest, made) = kept.split_first_chunk::<32>()?;
    (Digest::of(made).0 == *digest).then(|| made.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn zstd_reads_it_and_the_window_is_8_mib() {
        let data: Vec<u8> = (0..20u32 << 20).map(|i| u8::try_from((i.wrapping_mul(i) >> 9) & 0xff).unwrap()).collect();
        let packed = compress(&data).unwrap();
        assert_eq!(packed.len() % 4, 0);
        assert_eq!(packed, compress(&data).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zst");
        // Up to three zero bytes of padding follow the frame: the kernel skips them, the tool does not know them.
        let frame = packed.len() - packed.iter().rev().take_while(|byte| **byte == 0).count();
        std::fs::write(&path, &packed[..frame]).unwrap();
        let output = Command::new("zstd").args(["-dc", "--memory=8MB"]).arg(&path).stderr(Stdio::inherit()).output();
        let output = output.unwrap();
        assert!(output.status.success() && output.stdout == data);
    }

    #[test]
    fn the_cache_makes_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(&dir.path().join("new"));
        let key = Digest::of(b"k");
        assert_eq!(cache.get(&key, || Ok(vec![1])).unwrap(), [1]);
        assert_eq!(cache.get(&key, || Ok(vec![2])).unwrap(), [1]);
        let path = dir.path().join("new").join(key.to_string());
        for damaged in [vec![0; 33], vec![1; 5], Vec::new()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get(&key, || Ok(vec![3])).unwrap(), [3]);
        }
        let error = cache.get(&Digest::of(b"l"), || anyhow::bail!("making it")).unwrap_err();
        assert_eq!(error.to_string(), "making it");
    }

    #[test]
    fn threads_that_keep_the_same_thing_at_once_all_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        // None returns from making it before all have found that it is not there.
        let barrier = Barrier::new(16);
        let get = || {
            cache.get(&Digest::of(b"k"), || {
                barrier.wait();
                Ok(vec![7; 1 << 16])
            })
        };
        let got: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(get)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(got.iter().all(|got| got.as_ref().is_ok_and(|got| *got == vec![7; 1 << 16])), "{got:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
