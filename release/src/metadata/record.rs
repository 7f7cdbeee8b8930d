//! The versions that a machine remembers as a record of fixed size, for an NV index of its TPM: there is little room there,
//! and a write that is cut may leave half of one. Numbers are big-endian, as all else in a TPM.
//!
//! | Bytes | Content |
//! |---|---|
//! | 0 to 7 | `metalver` |
//! | 8 to 11 | format: 1 |
//! | 12 to 43 | [`Versions::anchor`] |
//! | 44 to 75 | [`Versions::online_keys`] |
//! | 76 to 115 | the versions of root, timestamp, snapshot, targets and hosts, 8 bytes each |
//! | 116 to 127 | the first 12 bytes of the SHA-256 of all that is before them |
//!
//! Magic, format and digest have their places in every format of this size.

use super::versions::Versions;
use crate::digest::Digest;
use crate::document;

/// Bytes of a record of versions.
pub const RECORD_BYTES: u16 = 128;
const MAGIC: [u8; 8] = *b"metalver";
/// The only one that is read here.
const FORMAT: u32 = 1;
/// Bytes of the digest: enough to tell a whole record from half of one, and nobody is kept out by it.
const SUM_BYTES: usize = 12;

/// Why bytes are no record that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Something else, or not whole.
    #[error("there is no whole record of metadata versions in it")]
    Damaged,
    /// A whole one, by a newer installer.
    #[error("its record of metadata versions has format {0}, and this installer knows 1")]
    Format(u32),
}

impl Versions {
    /// As a record of [`RECORD_BYTES`].
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let mut record = MAGIC.to_vec();
        record.extend(FORMAT.to_be_bytes());
        record.extend(self.anchor.0);
        record.extend(self.online_keys.0);
        for version in [self.root, self.timestamp, self.snapshot, self.targets, self.hosts] {
            record.extend(version.to_be_bytes());
        }
        let sum = Digest::of(&record);
        record.extend(sum.0.iter().take(SUM_BYTES));
        record
    }

    /// Reads what [`Versions::to_record`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_record(record: &[u8]) -> Result<Self, RecordError> {
        let (format, content) = open(record).ok_or(RecordError::Damaged)?;
        if format != FORMAT {
            return Err(RecordError::Format(format));
        }
        of_content(content).ok_or(RecordError::Damaged)
    }
}

/// Format and content of a whole record.
fn open(record: &[u8]) -> Option<(u32, &[u8])> {
    if record.len() != usize::from(RECORD_BYTES) {
        return None;
    }
    let (body, sum) = record.split_last_chunk::<SUM_BYTES>()?;
    if !Digest::of(body).0.starts_with(sum) {
        return None;
    }
    let (format, content) = body.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*format), content))
}

fn of_content(content: &[u8]) -> Option<Versions> {
    let (anchor, rest) = content.split_first_chunk::<32>()?;
    let (online_keys, rest) = rest.split_first_chunk::<32>()?;
    let (&[root, timestamp, snapshot, targets, hosts], []) = rest.as_chunks::<8>() else { return None };
    let [root, timestamp, snapshot, targets, hosts] =
        [root, timestamp, snapshot, targets, hosts].map(u64::from_be_bytes);
    let (anchor, online_keys) = (Digest(*anchor), Digest(*online_keys));
    Some(Versions { format: document::FORMAT, anchor, root, online_keys, timestamp, snapshot, targets, hosts })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::to_hex;

    fn versions() -> Versions {
        let (anchor, online_keys) = (Digest([0xaa; 32]), Digest([0xbb; 32]));
        let (root, timestamp, snapshot, targets, hosts) = (1, 0x0102_0304_0506_0708, 3, 4, u64::MAX);
        Versions { format: 1, anchor, root, online_keys, timestamp, snapshot, targets, hosts }
    }

    #[test]
    fn a_record_has_these_bytes() {
        // python3: body = b"metalver" + struct.pack(">I", 1) + bytes([0xaa]) * 32 + bytes([0xbb]) * 32 +
        // struct.pack(">5Q", 1, 0x0102030405060708, 3, 4, 2**64 - 1), and hashlib.sha256(body).hexdigest()[:24] behind it.
        let keys = ["aa".repeat(32), "bb".repeat(32)].concat();
        let numbers = "0000000000000001010203040506070800000000000000030000000000000004ffffffffffffffff";
        let expected = format!("6d6574616c76657200000001{keys}{numbers}8fb1e1a23962099465062e6e");
        let record = versions().to_record();
        assert_eq!(to_hex(&record), expected);
        assert_eq!(record.len(), usize::from(RECORD_BYTES));
        assert_eq!(Versions::from_record(&record), Ok(versions()));
    }

    #[test]
    fn a_bit_that_is_wrong_is_noticed() {
        let record = versions().to_record();
        for bit in 0..8 * record.len() {
            let mut wrong = record.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Versions::from_record(&wrong), Err(RecordError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_write_that_was_cut_leaves_the_old_one_the_new_one_or_none() {
        let new = Versions { timestamp: 9, snapshot: 8, hosts: 7, ..versions() };
        let blank = vec![0xff; usize::from(RECORD_BYTES)];
        for (old, known) in [(versions().to_record(), Some(versions())), (blank, None)] {
            for cut in 0..=old.len() {
                let torn = [&new.to_record()[..cut], &old[cut..]].concat();
                let found = Versions::from_record(&torn);
                let whole = found.as_ref().is_ok_and(|found| *found == new || Some(found) == known.as_ref());
                assert!(whole || found == Err(RecordError::Damaged), "{cut}: {found:?}");
            }
        }
    }

    #[test]
    fn a_record_of_a_format_to_come_is_told_from_a_damaged_one() {
        let mut record = versions().to_record();
        record[11] = 2;
        let sum = Digest::of(&record[..116]);
        record[116..].copy_from_slice(&sum.0[..12]);
        let error = Versions::from_record(&record).unwrap_err();
        assert_eq!(error, RecordError::Format(2));
        assert_eq!(error.to_string(), "its record of metadata versions has format 2, and this installer knows 1");
        record.push(0);
        let error = Versions::from_record(&record).unwrap_err();
        assert_eq!(error.to_string(), "there is no whole record of metadata versions in it");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(anchor: [u8; 32], online_keys: [u8; 32], numbers: [u64; 5]) {
            let [root, timestamp, snapshot, targets, hosts] = numbers;
            let (anchor, online_keys) = (Digest(anchor), Digest(online_keys));
            let versions = Versions { format: 1, anchor, root, online_keys, timestamp, snapshot, targets, hosts };
            prop_assert_eq!(Versions::from_record(&versions.to_record()), Ok(versions));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..=256)) {
            if let Ok(versions) = Versions::from_record(&bytes) {
                prop_assert_eq!(versions.to_record(), bytes);
            }
        }
    }
}
