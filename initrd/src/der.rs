//! As much of DER (ITU-T X.690) as a signature needs: values written, and the parts of a certificate found.

use anyhow::{Context as _, Result, ensure};

/// Tags.
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// Context-specific, constructed: add the number.
pub(crate) const CONTEXT: u8 = 0xa0;

/// A value with its tag and length.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let bytes = content.len().to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let digits = bytes.get(first..).unwrap_or_default();
    let mut out = vec![tag];
    match digits {
        [short @ 0..0x80] => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend_from_slice(long);
        }
    }
    out.extend(content);
    out
}

/// Reads one value after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next value: its tag, its content, and the whole of it.
    pub(crate) fn next(&mut self) -> Result<(u8, &'a [u8], &'a [u8])> {
        let all = self.0;
        let (tag, length) = (*all.first().context("a value is missing")?, *all.get(1).context("a length is missing")?);
        let digits = usize::from(if length < 0x80 { 0 } else { length & 0x7f });
        ensure!(digits <= 4 && length != 0x80, "a length has {digits} bytes");
        let long = all.get(2..2 + digits).context("a length is cut off")?;
        let long = long.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()));
        let length = if digits == 0 { usize::from(length) } else { long.context("a length is too large")? };
        let end = (2 + digits).checked_add(length).context("a length is too large")?;
        let (whole, content) = (all.get(..end), all.get(2 + digits..end));
        self.0 = all.get(end..).context("a value is cut off")?;
        Ok((tag, content.context("a value is cut off")?, whole.context("a value is cut off")?))
    }

    /// The next value, which must have this tag: its content, and the whole of it.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<(&'a [u8], &'a [u8])> {
        let (found, content, whole) = self.next()?;
        ensure!(found == tag, "a value has the tag {found:#04x}, not {tag:#04x}");
        Ok((content, whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        assert_eq!(value(NULL, &[]), [5, 0]);
        assert_eq!(value(INTEGER, &[&[1], &[2]]), [2, 2, 1, 2]);
        assert_eq!(value(OCTET_STRING, &[&[7; 127]])[..3], [4, 127, 7]);
        assert_eq!(value(OCTET_STRING, &[&[7; 128]])[..4], [4, 0x81, 128, 7]);
        assert_eq!(value(OCTET_STRING, &[&[7; 258]])[..5], [4, 0x82, 1, 2, 7]);
    }

    #[test]
    fn what_was_written_is_read_and_what_is_cut_off_refused() {
        let bytes = [value(SEQUENCE, &[&value(INTEGER, &[&[9; 300]])]), value(NULL, &[])].concat();
        let mut reader = Reader(&bytes);
        let (content, whole) = reader.expect(SEQUENCE).unwrap();
        assert_eq!((content.len(), whole.len()), (304, 308));
        assert_eq!(reader.expect(SET).unwrap_err().to_string(), "a value has the tag 0x05, not 0x31");
        let refusal = |bytes: &[u8]| Reader(bytes).next().unwrap_err().to_string();
        assert_eq!(refusal(&bytes[..200]), "a value is cut off");
        assert_eq!(refusal(&[]), "a value is missing");
        assert_eq!(refusal(&[4, 0x80]), "a length has 0 bytes");
        assert_eq!(refusal(&[4, 0x85, 0, 0, 0, 0, 0]), "a length has 5 bytes");
        assert_eq!(refusal(&[4, 0x82, 1]), "a length is cut off");
    }
}
