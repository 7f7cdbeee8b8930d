//! A SHA-256 digest as a value: hexadecimal text outside, 32 bytes inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::sys;
use crate::verity::Block;

#[cfg(target_arch = "x86_64")]
pub(crate) mod pair;

/// A SHA-256 digest. Its text form is 64 lower-case hexadecimal characters; anything else is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// Why a text is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a SHA-256 digest (64 lower-case hexadecimal characters): {0:?}")]
pub struct NotADigest(String);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of `salt` followed by `block`, as dm-verity (hash type 1) defines it.
    #[must_use]
    pub fn salted(salt: &[u8], block: &[u8]) -> Self {
        Self(Sha256::new().chain_update(salt).chain_update(block).finalize().into())
    }

    /// [`Digest::salted`] of two blocks at once, which takes little longer than one where the processor permits.
    #[must_use]
    pub fn salted_pair(salt: &[u8], blocks: [&Block; 2]) -> [Self; 2] {
        let pair = sys::salted_pair(salt, blocks).map(|pair| pair.map(Self));
        pair.unwrap_or_else(|| blocks.map(|block| Self::salted(salt, block)))
    }

    /// Gives `each` every block with its digest, in order, up to the first error. `T` is whatever belongs to a block.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn salted_each<'a, T, E>(
        salt: &[u8],
        blocks: impl IntoIterator<Item = (T, &'a Block)>,
        mut each: impl FnMut(T, &'a Block, Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut blocks = blocks.into_iter();
        while let Some((mine, block)) = blocks.next() {
            let Some((its, next)) = blocks.next() else { return each(mine, block, Self::salted(salt, block)) };
            let [first, second] = Self::salted_pair(salt, [block, next]);
            each(mine, block, first)?;
            each(its, next, second)?;
        }
        Ok(())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let bytes = from_hex(text).ok_or_else(|| NotADigest(text.chars().take(80).collect()))?;
        bytes.try_into().map(Self).map_err(|_| NotADigest(text.chars().take(80).collect()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Lower-case hexadecimal text of `bytes`.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of lower-case hexadecimal `text`; `None` if it is anything else.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verity::BLOCK_SIZE;

    proptest! {
        /// Two at once are what another implementation makes of each, whatever the salt.
        #[test]
        fn two_at_once_are_each_their_own(salt in proptest::collection::vec(any::<u8>(), 0..=256), seed: [u8; 2]) {
            let [one, other] = seed.map(|seed| {
                std::array::from_fn::<u8, BLOCK_SIZE, _>(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1].wrapping_mul(seed))
            });
            let expected = [Digest::salted(&salt, &one), Digest::salted(&salt, &other)];
            prop_assert_eq!(Digest::salted_pair(&salt, [&one, &other]), expected);
        }
    }

    #[test]
    fn each_block_comes_with_its_digest_up_to_an_error() {
        let blocks: Vec<Block> = (0..5).map(|byte| [byte; BLOCK_SIZE]).collect();
        for count in 0..=5 {
            let mut seen = Vec::new();
            let done = Digest::salted_each(b"salt", (7..).zip(&blocks[..count]), |number, block, digest| {
                seen.push((number, block[0], digest == Digest::salted(b"salt", block)));
                if number == 10 { Err(number) } else { Ok(()) }
            });
            let expected: Vec<_> =
                (7..).zip(0..u8::try_from(count.min(4)).unwrap()).map(|(n, byte)| (n, byte, true)).collect();
            assert_eq!((seen, done), (expected, if count > 3 { Err(10) } else { Ok(()) }));
        }
    }

    #[test]
    fn digest_text_is_exact() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>(), Ok(digest));
        for bad in ["", "ba78", &text.to_uppercase(), &format!("{text}00"), &text.replace('b', "g")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
