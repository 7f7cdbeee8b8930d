//! Options of DHCP leases that have settings for us.
//!
//! DHCPv4 has an option of the range that every site may use as it likes (224 to 254, RFC 3942); whatever else a site has put
//! there lacks our prefix and is passed over. DHCPv6 has no such range, and a vendor option needs a number that is assigned to
//! the vendor; but it has parameters for what was booted (RFC 5970 section 3.2), and that is what we are.

use super::{Word, command_line};

/// DHCPv4 option with our words, separated by spaces, quoted as on a kernel command line.
pub const WORDS_4: u8 = 224;
/// DHCPv4 option of the boot file (RFC 2132 section 9.5).
pub const BOOT_FILE_4: u8 = 67;
/// DHCPv6 option of the boot file's URL (RFC 5970 section 3.1).
pub const BOOT_URL_6: u16 = 59;
/// DHCPv6 option of parameters for the boot file, one of which is one of our words (RFC 5970 section 3.2).
pub const PARAMETERS_6: u16 = 60;

/// Our words in the data of option [`WORDS_4`].
#[must_use]
pub fn words_4(data: &[u8]) -> Vec<Word> {
    command_line::words(without_zeroes(data))
}

/// Our words in the data of option [`PARAMETERS_6`]: parameters, each with its length before it in two bytes, the larger
/// first. From one that is cut off on, nothing is read.
#[must_use]
pub fn words_6(data: &[u8]) -> Vec<Word> {
    let (mut words, mut rest) = (Vec::new(), data);
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let Some((parameter, behind)) = behind.split_at_checked(u16::from_be_bytes(*length).into()) else { break };
        words.extend(command_line::words(without_zeroes(parameter)));
        rest = behind;
    }
    words
}

/// The boot file as text, where it is some.
#[must_use]
pub fn boot_url(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(without_zeroes(data)).ok()?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Some servers end texts with a zero (RFC 2132 section 2 has clients take that).
fn without_zeroes(data: &[u8]) -> &[u8] {
    let zeroes = data.iter().rev().take_while(|byte| **byte == 0).count();
    data.get(..data.len().saturating_sub(zeroes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::Setting;

    #[test]
    fn words_are_told_from_what_else_a_site_has_there() {
        let expected =
            [Word::new(Setting::Repository, "https://a/os"), Word::new(Setting::Mirrors, "https://b https://c")];
        let text = b"metalstrap.repository=https://a/os metalstrap.mirrors=\"https://b https://c\"\0";
        assert_eq!(words_4(text), expected);
        assert_eq!(words_4(b"http://phones.test/config"), []);
        let parameter = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
        let six = [
            parameter("metalstrap.repository=https://a/os"),
            parameter("initrd=x"),
            parameter("metalstrap.mirrors=\"https://b https://c\""),
        ]
        .concat();
        assert_eq!(words_6(&six), expected);
        assert_eq!(words_6(six.get(..six.len() - 1).unwrap()), expected[..1]);
        assert_eq!(words_6(&[0]), []);
    }

    #[test]
    fn the_boot_file_is_text() {
        assert_eq!(boot_url(b"https://a/os/netboot.efi\0").as_deref(), Some("https://a/os/netboot.efi"));
        assert_eq!(boot_url(b"\0"), None);
        assert_eq!(boot_url(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read = words_4(&bytes).len() + words_6(&bytes).len();
            prop_assert!(read <= bytes.len());
            prop_assert!(boot_url(&bytes).is_none_or(|text| text.len() <= bytes.len()));
        }
    }
}
