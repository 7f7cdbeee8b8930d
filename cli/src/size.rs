//! Sizes as people write them.

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

/// Parses a number of bytes, with K, M, G or T for powers of 1024.
///
/// # Errors
/// Says what a size looks like.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) if text.ends_with('G') => (digits, 30),
        Some(digits) => (digits, 40),
        None => (text, 0),
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "not a number of bytes, as 4096, 128K, 512M, 2G or 1T".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        let sizes = ["0", "4096", "128K", "512M", "2G", "1T"].map(|text| parse(text).unwrap());
        assert_eq!(sizes, [0, 4096, 128 << 10, 512 << 20, 2 << 30, 1 << 40]);
        for bad in ["", "M", "-1", "+1", "1.5G", "1 G", "1MB", "1k", "18446744073709551616", "16777216T"] {
            assert_eq!(parse(bad), Err("not a number of bytes, as 4096, 128K, 512M, 2G or 1T".to_owned()), "{bad}");
        }
    }
}
