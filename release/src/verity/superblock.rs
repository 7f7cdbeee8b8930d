//! The superblock: the first 512 bytes of a hash file, the rest of block 0 being zero. Little-endian
//! (cryptsetup `lib/verity/verity.c`, `struct verity_sb`).

use uuid::Uuid;

use super::{BLOCK_SIZE, Block, MAX_DATA_BLOCKS};
use crate::digest::to_hex;

/// The most bytes of salt the superblock has room for.
pub const MAX_SALT: usize = 256;

const SIGNATURE: &[u8; 8] = b"verity\0\0";
const VERSION: u32 = 1;
const HASH_TYPE: u32 = 1;
const ALGORITHM: &[u8; 32] = b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const BLOCK_SIZE_FIELD: u32 = 4096;

/// What a superblock says beyond the constants of this format (version 1, hash type 1, SHA-256, 4096-byte blocks).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Superblock {
    /// Identifies the hash file. Nothing derives from it and the root hash does not cover it.
    pub uuid: Uuid,
    /// Blocks of the data.
    pub data_blocks: u64,
    /// What every digest starts with: at most [`MAX_SALT`] bytes.
    pub salt: Vec<u8>,
}

/// Why a block is no superblock of this format.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the hash tree's superblock has {field} {found}, not {expected}")]
pub struct SuperblockError {
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub found: String,
    /// What it should hold.
    pub expected: String,
}

impl SuperblockError {
    pub(super) fn new(field: &'static str, found: impl ToString, expected: impl ToString) -> Self {
        Self { field, found: found.to_string(), expected: expected.to_string() }
    }
}

fn expect<T: PartialEq + ToString>(field: &'static str, found: T, expected: T) -> Result<(), SuperblockError> {
    if found == expected { Ok(()) } else { Err(SuperblockError::new(field, found, expected)) }
}

/// Takes fields off the front; past the end every field is zero, which no caller reaches.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

impl Superblock {
    /// A superblock; `None` when the salt is longer than [`MAX_SALT`] or the number of blocks is none that a
    /// [`super::Geometry`] has.
    #[must_use]
    pub fn new(uuid: Uuid, data_blocks: u64, salt: &[u8]) -> Option<Self> {
        let fits = salt.len() <= MAX_SALT && (1..=MAX_DATA_BLOCKS).contains(&data_blocks);
        fits.then(|| Self { uuid, data_blocks, salt: salt.to_vec() })
    }

    /// Parses block 0 of a hash file.
    ///
    /// # Errors
    /// Names the first field that this format does not allow.
    pub fn parse(block: &Block) -> Result<Self, SuperblockError> {
        let mut fields = Fields(block);
        expect("signature", to_hex(&fields.take::<8>()), to_hex(SIGNATURE))?;
        expect("version", fields.u32(), VERSION)?;
        expect("hash type", fields.u32(), HASH_TYPE)?;
        let uuid = Uuid::from_bytes(fields.take());
        let algorithm = fields.take();
        if algorithm != *ALGORITHM {
            return Err(SuperblockError::new("algorithm", text(&algorithm), text(ALGORITHM)));
        }
        expect("data block size", fields.u32(), BLOCK_SIZE_FIELD)?;
        expect("hash block size", fields.u32(), BLOCK_SIZE_FIELD)?;
        let data_blocks = u64::from_le_bytes(fields.take());
        let salt_size = usize::from(u16::from_le_bytes(fields.take()));
        let padding: [u8; 6] = fields.take();
        let salt_field = fields.take::<MAX_SALT>();
        let Some((salt, behind)) = salt_field.split_at_checked(salt_size) else {
            return Err(SuperblockError::new("salt size", salt_size, format!("{MAX_SALT} at most")));
        };
        if padding.iter().chain(behind).chain(fields.0).any(|byte| *byte != 0) {
            return Err(not_zero());
        }
        Self::new(uuid, data_blocks, salt)
            .ok_or_else(|| SuperblockError::new("data blocks", data_blocks, format!("1 to {MAX_DATA_BLOCKS}")))
    }

    /// Block 0 of a hash file.
    #[must_use]
    pub fn encode(&self) -> Block {
        let salt: &[u8] = self.salt.get(..MAX_SALT).unwrap_or(&self.salt);
        let salt_size = u16::try_from(salt.len()).unwrap_or_default();
        let mut bytes = Vec::with_capacity(BLOCK_SIZE);
        bytes.extend_from_slice(SIGNATURE);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&HASH_TYPE.to_le_bytes());
        bytes.extend_from_slice(self.uuid.as_bytes());
        bytes.extend_from_slice(ALGORITHM);
        bytes.extend_from_slice(&BLOCK_SIZE_FIELD.to_le_bytes());
        bytes.extend_from_slice(&BLOCK_SIZE_FIELD.to_le_bytes());
        bytes.extend_from_slice(&self.data_blocks.to_le_bytes());
        bytes.extend_from_slice(&salt_size.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(salt);
        let mut block = [0; BLOCK_SIZE];
        block.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        block
    }
}

fn not_zero() -> SuperblockError {
    SuperblockError::new("padding", "bytes other than zero", "zero")
}

/// A NUL-padded field as text.
fn text(field: &[u8; 32]) -> String {
    field.escape_ascii().to_string().trim_end_matches("\\x00").to_owned()
}
