//! Payloads: the bytes of an artifact as published, in zstd's seekable format: independent frames, each with its
//! content size in the header, and a seek table at the end. `zstd -d` reads it too.

use std::io;

use zstd::zstd_safe::{self, DCtx};

use crate::digest::Digest;
pub use crate::payload_frames::{Next, next_frame};
pub use crate::payload_writer::{CompressOptions, MOST_THREADS, compress, least_frame_size};
pub use crate::seek_table::{Frame, MAX_FRAME_CONTENT, SeekTable};

/// Why a payload, or a part of one, is refused or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The seek table has another size than the manifest says, or none that is allowed.
    #[error("the seek table has {found} bytes, not {expected}")]
    TableSize {
        /// Its bytes.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// The seek table is not the one the manifest names.
    #[error("the seek table has digest {found}, but the manifest says {expected}")]
    TableDigest {
        /// Its digest.
        found: Digest,
        /// What the manifest says.
        expected: Digest,
    },
    /// The seek table is not of the format.
    #[error("the seek table {problem}")]
    Table {
        /// What is wrong.
        problem: &'static str,
    },
    /// A frame with content that is not allowed.
    #[error("frame {index} has {content_size} bytes of content, not whole blocks up to {MAX_FRAME_CONTENT}")]
    FrameContent {
        /// Its number.
        index: usize,
        /// Bytes of its content.
        content_size: u64,
    },
    /// A frame with a stored size that zstd never needs.
    #[error("frame {index} has {size} bytes for {content_size} of content")]
    FrameSize {
        /// Its number.
        index: usize,
        /// Its bytes.
        size: u64,
        /// Bytes of its content.
        content_size: u64,
    },
    /// The frames and the seek table are not as long as the file.
    #[error("the frames and the seek table have {found} bytes, but the payload has {expected}")]
    Stored {
        /// Their bytes.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// The contents of the frames are not as long as the content.
    #[error("the frames have {found} bytes of content, but the payload has {expected}")]
    Content {
        /// Their bytes.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// Bytes that are not the one zstd frame that is expected there.
    #[error("the frame at {offset} of the payload {problem}")]
    Frame {
        /// Where it starts.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// Options that do not fit the format.
    #[error("a frame size of {0} bytes is not whole blocks up to {MAX_FRAME_CONTENT}")]
    FrameOption(u64),
    /// Content that is no whole number of blocks, or none.
    #[error("{0} bytes of content are not whole blocks")]
    NotBlocks(u64),
    /// More frames than a seek table holds.
    #[error("{frames} frames are too many for a seek table: a larger frame size helps")]
    TooManyFrames {
        /// How many.
        frames: usize,
    },
    /// zstd could not compress.
    #[error("compressing with zstd: {0}")]
    Compress(String),
    /// The content could not be read.
    #[error("reading the content")]
    Read(#[source] io::Error),
    /// The payload could not be written.
    #[error("writing the payload")]
    Write(#[source] io::Error),
}

/// Decodes frames one by one; keep one per thread.
pub struct FrameDecoder {
    context: DCtx<'static>,
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Replaces `content` by the content of `frame`, whose bytes are `bytes`: exactly one zstd frame with exactly
    /// the content size that the seek table says. Memory is that size and what zstd needs for its tables.
    ///
    /// # Errors
    /// Names the frame by its place in the payload. `content` then holds nothing of use.
    pub fn decode(&mut self, frame: &Frame, bytes: &[u8], content: &mut Vec<u8>) -> Result<(), PayloadError> {
        // No more than a frame may have, whatever the caller's frame says.
        content.resize(usize::try_from(frame.content_size.min(MAX_FRAME_CONTENT)).unwrap_or(0), 0);
        self.decode_to(frame, bytes, content)
    }

    /// The same into `content`, which must have exactly the frame's content size.
    ///
    /// # Errors
    /// As [`FrameDecoder::decode`].
    pub fn decode_to(&mut self, frame: &Frame, bytes: &[u8], content: &mut [u8]) -> Result<(), PayloadError> {
        let refuse = |problem: String| Err(PayloadError::Frame { offset: frame.offset, problem });
        if bytes.len() as u64 != frame.size {
            return refuse(format!("has {} bytes, not {}", bytes.len(), frame.size));
        }
        match zstd_safe::find_frame_compressed_size(bytes) {
            Ok(size) if size == bytes.len() => {}
            Ok(size) => return refuse(format!("ends after {size} of {} bytes", frame.size)),
            Err(code) => return refuse(format!("is no zstd frame: {}", zstd_safe::get_error_name(code))),
        }
        match zstd_safe::get_frame_content_size(bytes) {
            Ok(Some(size)) if size == frame.content_size => {}
            Ok(Some(size)) => return refuse(format!("says {size} bytes of content, not {}", frame.content_size)),
            _ => return refuse("does not say how much content it has".to_owned()),
        }
        let size = content.len();
        if size as u64 != frame.content_size || frame.content_size > MAX_FRAME_CONTENT {
            return refuse(format!("has {} bytes of content, too many", frame.content_size));
        }
        match self.context.decompress(content, bytes) {
            Ok(written) if written == size => Ok(()),
            Ok(written) => refuse(format!("has {written} bytes of content, not {size}")),
            Err(code) => refuse(format!("is damaged: {}", zstd_safe::get_error_name(code))),
        }
    }
}

#[cfg(test)]
mod tests;
