//! Generated images, of any size and without real files: of eight runs of 256 KiB one is zero, one is noise, and six are
//! text that compresses well.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::verity::{BLOCK_SIZE, Block};

use crate::changes::RUN;
use crate::noise::Noise;
use crate::stop;

/// Writes an image of `blocks` blocks, of which the first `unique` are there again behind themselves.
///
/// # Errors
/// There is no room.
pub fn image(path: &Path, blocks: u64, unique: u64) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).with_context(writing)?);
    let mut bytes = [0; BLOCK_SIZE];
    for index in 0..blocks {
        if index.is_multiple_of(1 << 14) {
            stop::check()?;
        }
        block(index.checked_rem(unique).unwrap_or(index), &mut bytes);
        out.write_all(&bytes).with_context(writing)?;
    }
    out.flush().with_context(writing)
}

fn block(index: u64, bytes: &mut Block) {
    match Noise::new(index / RUN).below(8) {
        0 => bytes.fill(0),
        1 => Noise::new(index ^ 0xB10C).fill(bytes),
        _ => {
            let mut line = *b"block                of a generated image, which compresses as text does; ";
            let number = index.to_string();
            line.iter_mut().skip(6).zip(number.bytes()).for_each(|(byte, digit)| *byte = digit);
            for piece in bytes.chunks_mut(line.len()) {
                piece.iter_mut().zip(line).for_each(|(byte, text)| *byte = text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_there_again_behind_what_is_unique() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        image(&path, 7 * RUN, 4 * RUN).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (first, again) = bytes.split_at(4 * usize::try_from(RUN).unwrap() * BLOCK_SIZE);
        assert!(first.starts_with(again) && again.len() == first.len() / 4 * 3);
    }

    #[test]
    fn the_mix_is_as_said() {
        let (mut zeroes, mut text) = (0, 0);
        for run in 0..8000 {
            let mut bytes = [1; BLOCK_SIZE];
            block(run * RUN, &mut bytes);
            zeroes += u32::from(bytes.iter().all(|byte| *byte == 0));
            text += u32::from(bytes.starts_with(b"block "));
        }
        assert!((900..1100).contains(&zeroes) && (5800..6200).contains(&text), "{zeroes} {text}");
    }
}
