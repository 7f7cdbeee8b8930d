//! The certificates that a TPM's maker has put into it for the endorsement keys (TCG, "EK Credential Profile for TPM Family 2.0",
//! section 2.2.1.5).

use anyhow::{Context as _, Result, bail};
use metalstrap_release::tpm2::KeyKind;
use zeroize::Zeroizing;

use super::direct::{Command, Direct, PASSWORD};
use super::sealing::first;

/// NV indices of the certificates of the EKs of the templates L-1 and L-2.
const RSA_2048: u32 = 0x01c0_0002;
const ECC_P256: u32 = 0x01c0_000a;
/// Those of the certificates between them and their root: one behind the other, across indices where one index is too short.
const CHAIN: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
/// Indices of the chain that are read, and bytes of it.
const MOST_INDICES: u32 = 64;
const MOST_BYTES: usize = 24 << 10;
/// `TPM_CAP_HANDLES`, `TPM_CAP_TPM_PROPERTIES`, and of the latter `TPM_PT_NV_BUFFER_MAX`.
const HANDLES: u32 = 1;
const PROPERTIES: u32 = 6;
const NV_BUFFER_MAX: u32 = 0x12c;
/// Bytes of an index that are asked for at once, where the TPM does not say how many it gives, and at most.
const PIECE: u16 = 256;
const MOST_PIECE: u16 = 2048;

impl Direct {
    /// The certificate of the endorsement key of this kind, in DER; `None` where the TPM has none.
    ///
    /// # Errors
    /// The TPM's.
    pub fn ek_certificate(&mut self, kind: KeyKind) -> Result<Option<Vec<u8>>> {
        let index = match kind {
            KeyKind::Rsa2048 => RSA_2048,
            KeyKind::EccP256 => ECC_P256,
        };
        if self.nv_indices(index, 1)?.first() != Some(&index) {
            return Ok(None);
        }
        Ok(certificates(&self.nv_content(index)?).into_iter().next())
    }

    /// The certificates between those and their root, in DER.
    ///
    /// # Errors
    /// The TPM's.
    pub fn ek_chain(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut indices = self.nv_indices(*CHAIN.start(), MOST_INDICES)?;
        indices.retain(|index| CHAIN.contains(index));
        let mut content = Vec::new();
        for index in indices {
            content.extend(self.nv_content(index)?);
            if content.len() > MOST_BYTES {
                bail!("the TPM has more than {MOST_BYTES} bytes of certificates");
            }
        }
        Ok(certificates(&content))
    }

    /// The NV indices that are defined, at most so many from this one on. To ask for one that is not there would put an error on
    /// the consoles.
    fn nv_indices(&mut self, from: u32, most: u32) -> Result<Vec<u32>> {
        let answer = self.capability(HANDLES, from, most)?;
        let (handles, _) = answer.get(4..).unwrap_or_default().as_chunks::<4>();
        Ok(handles.iter().map(|handle| u32::from_be_bytes(*handle)).collect())
    }

    /// What a TPM is asked about itself: at most so many of one kind, the first of them `from`, as a counted list.
    ///
    /// # Errors
    /// The TPM's.
    pub(super) fn capability(&mut self, kind: u32, from: u32, most: u32) -> Result<Zeroizing<Vec<u8>>> {
        let parameters = [kind, from, most].map(u32::to_be_bytes).concat();
        let (what, code) = ("TPM2_GetCapability", 0x17a);
        let answer = self.run(&Command { what, code, handles: &[], by: &[], parameters: &parameters })?;
        // Whether there are more, and the kind.
        let list = answer.get(5..).context("the TPM's answer to TPM2_GetCapability is too short")?;
        Ok(Zeroizing::new(list.to_vec()))
    }

    /// A whole index. It is read by its own authorisation value, which is empty for those of a TPM's maker.
    fn nv_content(&mut self, index: u32) -> Result<Vec<u8>> {
        let most = self.nv_piece()?;
        let (what, code) = ("TPM2_NV_ReadPublic", 0x169);
        let answer = self.run(&Command { what, code, handles: &[index], by: &[], parameters: &[] })?;
        // The last of what is public of it is its size.
        let size = first(&answer)?.last_chunk::<2>().copied().map(u16::from_be_bytes);
        let size = size.with_context(|| format!("NV index {index:#010x} of the TPM has no size"))?;
        let mut content = Vec::new();
        while content.len() < usize::from(size) {
            let offset = u16::try_from(content.len())?;
            let length = most.min(size.saturating_sub(offset));
            let answer = self.run(&Command {
                what: "TPM2_NV_Read",
                code: 0x14e,
                handles: &[index, index],
                by: &[PASSWORD],
                parameters: &[length.to_be_bytes(), offset.to_be_bytes()].concat(),
            })?;
            let piece = first(&answer)?;
            if piece.is_empty() {
                bail!("the TPM gave nothing of NV index {index:#010x} from byte {offset} on");
            }
            content.extend_from_slice(piece);
        }
        Ok(content)
    }

    /// How many bytes of an index the TPM gives at once.
    fn nv_piece(&mut self) -> Result<u16> {
        let answer = self.capability(PROPERTIES, NV_BUFFER_MAX, 1)?;
        // How many there are, which it is, its value.
        let (words, _) = answer.as_chunks::<4>();
        let said = match words {
            [_, which, value, ..] if *which == NV_BUFFER_MAX.to_be_bytes() => Some(u32::from_be_bytes(*value)),
            _ => None,
        };
        let said = said.and_then(|value| u16::try_from(value).ok());
        Ok(said.filter(|bytes| *bytes > 0).map_or(PIECE, |bytes| bytes.min(MOST_PIECE)))
    }
}

/// The certificates in a content. Some makers fill an index up to its size.
fn certificates(content: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = content;
    while let Some((one, behind)) = certificate(rest) {
        all.push(one.to_vec());
        rest = behind;
        while let Some((0x00 | 0xff, behind)) = rest.split_first() {
            rest = behind;
        }
    }
    all
}

/// The certificate at the start, and what is behind it. It is a SEQUENCE whose length takes two bytes: none has fewer than 256.
fn certificate(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x30, 0x82, high, low, ..] = bytes else { return None };
    bytes.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])).saturating_add(4))
}

#[cfg(test)]
mod tests {
    use super::super::swtpm::Swtpm;
    use super::*;

    /// A SEQUENCE of so many bytes.
    fn sequence(length: u16, byte: u8) -> Vec<u8> {
        [&[0x30_u8, 0x82][..], &length.to_be_bytes(), &vec![byte; usize::from(length)]].concat()
    }

    #[test]
    fn certificates_end_where_they_say_and_padding_is_none() {
        let (one, other) = (sequence(300, 1), sequence(700, 2));
        assert_eq!(certificates(&one), std::slice::from_ref(&one));
        assert_eq!(certificates(&[&one[..], &[0; 50]].concat()), std::slice::from_ref(&one));
        assert_eq!(certificates(&[&one[..], &[0xff; 50], &other].concat()), [one.clone(), other.clone()]);
        assert_eq!(certificates(&[&one[..], &other].concat()), [one.clone(), other.clone()]);
        // Cut, of another form, empty.
        for none in [&one[..one.len() - 1], &[0x10, 0x01, 0x00, 0x02], &[0x30], &[0xff; 600], &[]] {
            assert_eq!(certificates(none), Vec::<Vec<u8>>::new());
        }
        assert_eq!(certificates(&[&one[..], &other[..9]].concat()), [one]);
    }

    #[test]
    fn they_are_read_in_pieces_and_across_indices() {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.direct();
        for kind in KeyKind::ALL {
            assert_eq!(tpm.ek_certificate(kind).unwrap(), None);
        }
        assert_eq!(tpm.ek_chain().unwrap(), Vec::<Vec<u8>>::new());
        let (own, first, second) = (sequence(1200, 3), sequence(900, 4), sequence(800, 5));
        let chain = [&first[..], &second].concat();
        let (start, end) = chain.split_at(1000);
        tpm.define(ECC_P256, &[&own[..], &[0xff; 60]].concat());
        tpm.define(*CHAIN.start(), start);
        tpm.define(*CHAIN.start() + 1, end);
        // Another one's, behind the chain.
        tpm.define(*CHAIN.end() + 1, &sequence(300, 6));
        assert_eq!(tpm.ek_certificate(KeyKind::EccP256).unwrap(), Some(own));
        assert_eq!(tpm.ek_certificate(KeyKind::Rsa2048).unwrap(), None);
        assert_eq!(tpm.ek_chain().unwrap(), [first, second]);
    }

    impl Direct {
        /// Defines an NV index that its own empty authorisation value reads, and fills it.
        pub(crate) fn define(&mut self, index: u32, content: &[u8]) {
            use metalstrap_release::tpm2::{SHA256, sized};

            const OWNER: u32 = 0x4000_0001;
            // TPMA_NV_OWNERWRITE, TPMA_NV_AUTHREAD, TPMA_NV_NO_DA.
            const ATTRIBUTES: u32 = (1 << 1) | (1 << 18) | (1 << 25);
            let size = u16::try_from(content.len()).unwrap().to_be_bytes();
            let start = [&index.to_be_bytes()[..], &SHA256.to_be_bytes(), &ATTRIBUTES.to_be_bytes()].concat();
            let public = sized(&[start, sized(&[]), size.to_vec()].concat());
            let (what, code) = ("TPM2_NV_DefineSpace", 0x12a);
            let parameters = [sized(&[]), public].concat();
            self.run(&Command { what, code, handles: &[OWNER], by: &[PASSWORD], parameters: &parameters }).unwrap();
            for (at, piece) in content.chunks(500).enumerate() {
                let (what, code) = ("TPM2_NV_Write", 0x137);
                let offset = u16::try_from(500 * at).unwrap().to_be_bytes();
                let parameters = [sized(piece), offset.to_vec()].concat();
                let handles = &[OWNER, index];
                self.run(&Command { what, code, handles, by: &[PASSWORD], parameters: &parameters }).unwrap();
            }
        }
    }
}
