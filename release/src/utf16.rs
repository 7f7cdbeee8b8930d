//! UTF-16 as firmware has it: little endian.

/// The text that these bytes are; `None` if they are none, or have a NUL among them.
pub(crate) fn decode(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    String::from_utf16(&units).ok().filter(|text| !text.contains('\0'))
}
