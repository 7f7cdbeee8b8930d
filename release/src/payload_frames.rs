//! Finding where a frame ends without a seek table: for servers that send a payload only as a whole, in order.

use crate::payload::PayloadError;
use crate::seek_table::{MAX_FRAME_CONTENT, most_stored};

/// Magic number of a zstd frame (RFC 8878 section 3.1.1).
const MAGIC: u32 = 0xFD2F_B528;
/// Magic number of the skippable frame that is the seek table.
const SKIPPABLE: u32 = 0x184D_2A5E;

/// What a stream of frames goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A frame of so many bytes: all of them are there.
    Frame(usize),
    /// The seek table: there are no more frames.
    Table,
    /// More bytes are needed to tell.
    More,
}

/// Says what `bytes`, which begin where a frame begins, begin with. `offset` is their place in the payload, for messages.
///
/// # Errors
/// [`PayloadError::Frame`]: no frame begins there, or one that is longer than any that `publish` writes.
pub fn next_frame(bytes: &[u8], offset: u64) -> Result<Next, PayloadError> {
    let refuse = |problem: &str| Err(PayloadError::Frame { offset, problem: problem.to_owned() });
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Ok(Next::More) };
    match u32::from_le_bytes(*magic) {
        MAGIC => {}
        SKIPPABLE => return Ok(Next::Table),
        _ => return refuse("is no zstd frame"),
    }
    let Some(descriptor) = rest.first() else { return Ok(Next::More) };
    let most = usize::try_from(most_stored(MAX_FRAME_CONTENT)).unwrap_or(usize::MAX);
    // RFC 8878 section 3.1.1.1: window, dictionary id and content size have lengths that the descriptor says.
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied().unwrap_or(0);
    let content_size = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut at = 5 + usize::from(!single) + dictionary + content_size;
    loop {
        if at > most {
            return refuse("is longer than a frame may be");
        }
        let Some(header) = bytes.get(at..).and_then(<[u8]>::first_chunk::<3>) else { return Ok(Next::More) };
        let [a, b, c] = *header;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let size = match (header >> 1) & 3 {
            1 => 1,
            3 => return refuse("has a block of a reserved type"),
            _ => usize::try_from(header >> 3).unwrap_or(usize::MAX),
        };
        at = at.saturating_add(3).saturating_add(size);
        if header & 1 != 0 {
            break;
        }
    }
    at = at.saturating_add(if descriptor & 4 != 0 { 4 } else { 0 });
    if at > most {
        return refuse("is longer than a frame may be");
    }
    Ok(if at <= bytes.len() { Next::Frame(at) } else { Next::More })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::payload::{CompressOptions, compress};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// The lengths are those that zstd itself finds, whatever part of the stream is there.
        #[test]
        fn frames_end_where_zstd_says(seed in any::<u64>(), blocks in 1..100_usize, mask in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut state = seed | 1;
            let content: Vec<u8> = (0..blocks * 4096).map(|_| {
                state ^= state << 13; state ^= state >> 7; state ^= state << 17;
                state.to_le_bytes()[0] & mask
            }).collect();
            let options = CompressOptions { level: 3, frame_size: 64 << 10, ..CompressOptions::default() };
            let mut stored = Vec::new();
            compress(&mut &content[..], &mut stored, &options, &mut |_| {}).unwrap();
            let mut rest = &stored[..];
            loop {
                match next_frame(rest, 0).unwrap() {
                    Next::Frame(length) => {
                        prop_assert_eq!(Ok(length), zstd::zstd_safe::find_frame_compressed_size(rest).map_err(|_| ()));
                        let part = cut.index(length);
                        prop_assert_eq!(next_frame(&rest[..part], 0).unwrap(), Next::More);
                        rest = &rest[length..];
                    }
                    Next::Table => break,
                    Next::More => prop_assert!(false, "a whole stream is there"),
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let text = |bytes: &[u8]| next_frame(bytes, 7).unwrap_err().to_string();
        assert_eq!(text(b"<html>"), "the frame at 7 of the payload is no zstd frame");
        let mut endless = vec![0x28, 0xB5, 0x2F, 0xFD, 0x20, 0];
        // Blocks of no content, none of them the last.
        endless.resize(8 << 20, 0);
        assert_eq!(text(&endless), "the frame at 7 of the payload is longer than a frame may be");
        assert_eq!(
            text(&[0x28, 0xB5, 0x2F, 0xFD, 0x20, 0, 6, 0, 0]),
            "the frame at 7 of the payload has a block of a reserved type"
        );
    }
}
