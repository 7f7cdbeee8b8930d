//! The seek table: the skippable frame at the end of a payload that says where each frame lies
//! (facebook/zstd `contrib/seekable_format/zstd_seekable_compression_format.md`, version 0.1.0).

use crate::digest::Digest;
use crate::manifest::Payload;
use crate::payload::PayloadError;
use crate::verity::BLOCK;

/// The most content of one frame: what a reader must be ready to hold.
pub const MAX_FRAME_CONTENT: u64 = 4 << 20;
/// No seek table is larger: half a million frames, 1 TiB of content at the usual frame size. In memory they take four
/// times as much, beside the table itself.
pub const MAX_BYTES: u64 = 4 << 20;

/// Frames that a payload has at most, so that its seek table, and what a reader makes of it, stay small: 16 MiB in memory.
pub const MOST_FRAMES: u64 = (MAX_BYTES - 17) / 8;

/// Magic number of the skippable frame.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
/// Magic number in the last four bytes of the file.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Skippable magic and frame size.
const HEADER: usize = 8;
/// Number of frames, descriptor, magic.
const FOOTER: usize = 9;
/// Stored size and content size, without checksum.
const ENTRY: usize = 8;
/// The two lowest bits of the descriptor mean nothing; a set bit above them changes the format.
const DESCRIPTOR_UNUSED: u8 = 0b11;

/// One independent zstd frame of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it starts in the payload, in bytes.
    pub offset: u64,
    /// Its bytes in the payload.
    pub size: u64,
    /// Where its content starts in the whole content, in bytes: a multiple of 4096.
    pub content_offset: u64,
    /// Bytes of its content: a multiple of 4096.
    pub content_size: u64,
}

/// Where the frames of a payload lie: without gaps, in order, and as many bytes as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<Frame>,
}

impl SeekTable {
    /// Parses and checks the seek table of `payload`.
    ///
    /// # Errors
    /// When its digest is not the manifest's, or when what it says cannot be so.
    pub fn parse(bytes: &[u8], payload: &Payload) -> Result<Self, PayloadError> {
        let length = bytes.len() as u64;
        if length != payload.seek_table_size || length > MAX_BYTES {
            return Err(PayloadError::TableSize { found: length, expected: payload.seek_table_size });
        }
        let found = Digest::of(bytes);
        if found != payload.seek_table_sha256 {
            return Err(PayloadError::TableDigest { found, expected: payload.seek_table_sha256 });
        }
        let entries = entries(bytes)?;
        let mut frames = Vec::with_capacity(entries.len());
        let (mut offset, mut content_offset) = (0_u64, 0_u64);
        for (index, [size, content_size]) in entries.iter().map(numbers).enumerate() {
            check_frame(index, size, content_size)?;
            frames.push(Frame { offset, size, content_offset, content_size });
            // No overflow: at most MAX_BYTES / ENTRY frames of less than 2^32 bytes.
            offset = offset.saturating_add(size);
            content_offset = content_offset.saturating_add(content_size);
        }
        let stored = offset.saturating_add(length);
        if stored != payload.size {
            return Err(PayloadError::Stored { found: stored, expected: payload.size });
        }
        if content_offset != payload.content_size {
            return Err(PayloadError::Content { found: content_offset, expected: payload.content_size });
        }
        Ok(Self { frames })
    }

    /// The frames in order.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The number of the frame that holds the byte `content_offset` of the content; `None` behind its end.
    #[must_use]
    pub fn frame_at(&self, content_offset: u64) -> Option<usize> {
        let behind = self.frames.partition_point(|frame| frame.content_offset <= content_offset);
        let index = behind.checked_sub(1)?;
        let frame = self.frames.get(index)?;
        (content_offset - frame.content_offset < frame.content_size).then_some(index)
    }
}

/// The entries between header and footer.
fn entries(bytes: &[u8]) -> Result<&[[u8; ENTRY]], PayloadError> {
    let malformed = |problem: &'static str| PayloadError::Table { problem };
    let too_short = || malformed("is too short");
    let (magic, rest) = bytes.split_first_chunk().ok_or_else(too_short)?;
    let (frame_size, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
    let (body, footer) = rest.split_last_chunk::<FOOTER>().ok_or_else(too_short)?;
    let [n0, n1, n2, n3, descriptor, m0, m1, m2, m3] = *footer;
    if u32::from_le_bytes(*magic) != SKIPPABLE_MAGIC {
        return Err(malformed("does not start as a skippable frame"));
    }
    if u32::from_le_bytes([m0, m1, m2, m3]) != SEEKABLE_MAGIC {
        return Err(malformed("does not end in the seekable magic number"));
    }
    if usize::try_from(u32::from_le_bytes(*frame_size)).ok() != Some(rest.len()) {
        return Err(malformed("has a frame size other than its own"));
    }
    if descriptor & !DESCRIPTOR_UNUSED != 0 {
        return Err(malformed("has checksums or reserved bits, which `publish` does not write"));
    }
    let (entries, remainder) = body.as_chunks::<ENTRY>();
    if !remainder.is_empty() || usize::try_from(u32::from_le_bytes([n0, n1, n2, n3])).ok() != Some(entries.len()) {
        return Err(malformed("has a number of frames other than its own"));
    }
    Ok(entries)
}

/// Stored size and content size of an entry.
fn numbers(entry: &[u8; ENTRY]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h] = *entry;
    [[a, b, c, d], [e, f, g, h]].map(|field| u64::from(u32::from_le_bytes(field)))
}

/// What zstd needs at most for content of this size (`ZSTD_compressBound`, rounded up).
pub(crate) fn most_stored(content_size: u64) -> u64 {
    content_size.saturating_add(content_size / 128).saturating_add(1024)
}

fn check_frame(index: usize, size: u64, content_size: u64) -> Result<(), PayloadError> {
    if content_size == 0 || !content_size.is_multiple_of(BLOCK) || content_size > MAX_FRAME_CONTENT {
        return Err(PayloadError::FrameContent { index, content_size });
    }
    if size == 0 || size > most_stored(content_size) {
        return Err(PayloadError::FrameSize { index, size, content_size });
    }
    Ok(())
}

/// The seek table over frames of these stored sizes and content sizes.
///
/// # Errors
/// When there are more frames than [`MAX_BYTES`] has room for.
pub(crate) fn encode(frames: &[[u32; 2]]) -> Result<Vec<u8>, PayloadError> {
    let body = frames.len().saturating_mul(ENTRY).saturating_add(FOOTER);
    let total = body.saturating_add(HEADER) as u64;
    let (Ok(body), Ok(count)) = (u32::try_from(body), u32::try_from(frames.len())) else {
        return Err(PayloadError::TooManyFrames { frames: frames.len() });
    };
    if total > MAX_BYTES {
        return Err(PayloadError::TooManyFrames { frames: frames.len() });
    }
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&body.to_le_bytes());
    frames.iter().flatten().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    Ok(bytes)
}
