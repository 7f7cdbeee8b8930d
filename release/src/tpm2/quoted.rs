//! What a TPM signs when it is asked for a quote: `TPMS_ATTEST` of the type `TPM_ST_ATTEST_QUOTE` (part 2, section 10.12).

use super::{take_bytes, take_sized, take_u16, take_u32};
use crate::pcr::Bank;

/// `TPM_GENERATED_VALUE`: a restricted key signs nothing that begins with it, unless its TPM has made it.
const MAGIC: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const QUOTE: u16 = 0x8018;
/// No TPM has more banks.
const MAX_BANKS: u32 = 16;
/// Bytes of a bit map of PCRs: a PC's TPM has 24, and the library goes to 32.
const MAX_SELECT: u8 = 4;

/// Why bytes are no quote.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuoteError {
    /// Not of a TPM.
    #[error("was not made by a TPM: it does not begin with TPM_GENERATED_VALUE")]
    Magic,
    /// A TPM says something else in it.
    #[error("is no quote: its type is {0:#06x}")]
    Type(u16),
    /// It ends too early, or says more than it may.
    #[error("is not as the TPM library has it")]
    Malformed,
    /// It is about PCRs of a bank that is not known.
    #[error("is about a bank of the algorithm {0:#06x}, which is not known here")]
    Bank(u16),
}

/// PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The bank.
    pub bank: Bank,
    /// Their numbers, ascending.
    pub pcrs: Vec<u32>,
}

/// A quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// What the asker gave: the nonce.
    pub qualifying_data: Vec<u8>,
    /// Milliseconds that the TPM has run since it was cleared.
    pub clock: u64,
    /// How often it was reset.
    pub resets: u32,
    /// How often it was restarted or has resumed since its reset.
    pub restarts: u32,
    /// Which PCRs.
    pub selections: Vec<Selection>,
    /// Digest of their values, in this order, by the hash of the signature.
    pub digest: Vec<u8>,
}

impl Quoted {
    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        let mut rest = bytes;
        if take_u32(&mut rest) != Some(MAGIC) {
            return Err(QuoteError::Magic);
        }
        let kind = take_u16(&mut rest).ok_or(QuoteError::Malformed)?;
        if kind != QUOTE {
            return Err(QuoteError::Type(kind));
        }
        // The qualified name of the key, which depends on who asks whom: the signature says which key it was.
        take_sized(&mut rest).ok_or(QuoteError::Malformed)?;
        let qualifying_data = take_sized(&mut rest).ok_or(QuoteError::Malformed)?.to_vec();
        let clock = take_bytes(&mut rest).map(u64::from_be_bytes).ok_or(QuoteError::Malformed)?;
        let resets = take_u32(&mut rest).ok_or(QuoteError::Malformed)?;
        let restarts = take_u32(&mut rest).ok_or(QuoteError::Malformed)?;
        // Whether the clock is to be believed, and the version of the TPM's firmware.
        take_bytes::<9>(&mut rest).ok_or(QuoteError::Malformed)?;
        let count = take_u32(&mut rest).filter(|count| *count <= MAX_BANKS).ok_or(QuoteError::Malformed)?;
        let selections = (0..count).map(|_| selection(&mut rest)).collect::<Result<Vec<_>, _>>()?;
        let digest = take_sized(&mut rest).ok_or(QuoteError::Malformed)?.to_vec();
        if !rest.is_empty() {
            return Err(QuoteError::Malformed);
        }
        Ok(Self { qualifying_data, clock, resets, restarts, selections, digest })
    }
}

/// `TPMS_PCR_SELECTION`.
fn selection(rest: &mut &[u8]) -> Result<Selection, QuoteError> {
    let algorithm = take_u16(rest).ok_or(QuoteError::Malformed)?;
    let [size] = take_bytes::<1>(rest).ok_or(QuoteError::Malformed)?;
    if size > MAX_SELECT {
        return Err(QuoteError::Malformed);
    }
    let (map, behind) = rest.split_at_checked(usize::from(size)).ok_or(QuoteError::Malformed)?;
    *rest = behind;
    let bank = Bank::of_id(algorithm).ok_or(QuoteError::Bank(algorithm))?;
    let of_byte = |(at, byte): (u32, &u8)| {
        let byte = *byte;
        (0..8).filter(move |bit| byte & (1_u8 << *bit) != 0).map(move |bit| 8 * at + bit)
    };
    Ok(Selection { bank, pcrs: (0..).zip(map).flat_map(of_byte).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm2::sized;

    /// A quote of PCRs 0, 7 and 13 in the bank of SHA-256.
    fn quote() -> Vec<u8> {
        let start = [&MAGIC.to_be_bytes()[..], &QUOTE.to_be_bytes(), &sized(&[9; 34]), &sized(b"nonce")].concat();
        let clock = [&5_u64.to_be_bytes()[..], &6_u32.to_be_bytes(), &7_u32.to_be_bytes(), &[1], &[0; 8]].concat();
        let selection = [0, 0, 0, 1, 0, 0x0b, 3, 0b1000_0001, 0b0010_0000, 0];
        [start, clock, selection.to_vec(), sized(&[8; 32])].concat()
    }

    #[test]
    fn a_quote_is_read() {
        let selection = Selection { bank: Bank::Sha256, pcrs: vec![0, 7, 13] };
        let expected = Quoted {
            qualifying_data: b"nonce".to_vec(),
            clock: 5,
            resets: 6,
            restarts: 7,
            selections: vec![selection],
            digest: vec![8; 32],
        };
        assert_eq!(Quoted::parse(&quote()), Ok(expected));
    }

    #[test]
    fn what_is_none_is_refused() {
        let whole = quote();
        for length in 0..whole.len() {
            let expected = if length < 4 { QuoteError::Magic } else { QuoteError::Malformed };
            assert_eq!(Quoted::parse(&whole[..length]), Err(expected), "{length}");
        }
        assert_eq!(Quoted::parse(&[&whole[..], &[0]].concat()), Err(QuoteError::Malformed));
        let changed = |from_end: usize, value: u8| {
            let mut bytes = whole.clone();
            let at = bytes.len() - from_end;
            bytes[at] = value;
            Quoted::parse(&bytes).unwrap_err().to_string()
        };
        let (count, algorithm, size) = (41, 39, 38);
        assert_eq!(changed(whole.len(), 0), "was not made by a TPM: it does not begin with TPM_GENERATED_VALUE");
        // TPM_ST_ATTEST_CERTIFY.
        assert_eq!(changed(whole.len() - 5, 0x17), "is no quote: its type is 0x8017");
        assert_eq!(changed(count, 17), "is not as the TPM library has it");
        assert_eq!(changed(algorithm, 0x12), "is about a bank of the algorithm 0x0012, which is not known here");
        assert_eq!(changed(size, 5), "is not as the TPM library has it");
    }
}
