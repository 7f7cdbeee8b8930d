//! The banks of a TPM, and hashing in several of them at once.

use std::fmt;
use std::io::{self, Write};

use aws_lc_rs::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use serde::{Serialize, Serializer};

use crate::digest::to_hex;

/// A PCR bank, named by its hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// All of them, in the order in which systemd-measure names them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Bytes of a value.
    #[must_use]
    pub fn size(self) -> usize {
        self.algorithm().output_len()
    }

    /// The digest of `bytes` that this bank is extended with.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> BankDigest {
        let digest = aws_lc_rs::digest::digest(self.algorithm(), bytes).as_ref().to_vec();
        BankDigest { bank: self, digest }
    }

    /// Its `TPM_ALG_ID` (TCG Algorithm Registry).
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The bank of this `TPM_ALG_ID`; `None` if none is known here.
    #[must_use]
    pub fn of_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.id() == id)
    }

    /// The bank of this name, as [`fmt::Display`] writes it; `None` if none is known here.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.to_string() == name)
    }

    pub(super) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
            Self::Sha512 => &SHA512,
        }
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        })
    }
}

/// A digest with the bank it belongs to. As JSON in the form of systemd's log: `{"hashAlg": "sha256", "digest": hex}`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct BankDigest {
    /// The bank.
    #[serde(rename = "hashAlg")]
    pub bank: Bank,
    /// As many bytes as the bank's algorithm makes.
    #[serde(serialize_with = "hex")]
    pub digest: Vec<u8>,
}

impl BankDigest {
    /// That of a bank among these.
    #[must_use]
    pub fn find(digests: &[Self], bank: Bank) -> Option<&[u8]> {
        digests.iter().find(|digest| digest.bank == bank).map(|digest| digest.digest.as_slice())
    }

    /// Whether all of these are of `bytes`; none at all proves nothing.
    #[must_use]
    pub fn are_of(digests: &[Self], bytes: &[u8]) -> bool {
        !digests.is_empty() && digests.iter().all(|digest| digest.bank.digest(bytes) == *digest)
    }
}

fn hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_hex(bytes))
}

impl fmt::Debug for BankDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bank, to_hex(&self.digest))
    }
}

/// Hashes what is written to it, in several banks at once.
pub struct Hasher(Vec<(Bank, Context)>);

impl Hasher {
    /// One for these banks.
    #[must_use]
    pub fn new(banks: &[Bank]) -> Self {
        Self(banks.iter().map(|bank| (*bank, Context::new(bank.algorithm()))).collect())
    }

    /// The digest in each bank.
    #[must_use]
    pub fn finish(self) -> Vec<BankDigest> {
        let finish = |(bank, context): (Bank, Context)| BankDigest { bank, digest: context.finish().as_ref().to_vec() };
        self.0.into_iter().map(finish).collect()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(bank, _)| bank)).finish()
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.iter_mut().for_each(|(_, context)| context.update(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
