//! The URL that the firmware has fetched the netboot image from, and the repository beside the image.
//!
//! systemd-boot and systemd-stub say it in the EFI variables `LoaderDeviceURL` and `StubDeviceURL` (Boot Loader Interface);
//! DHCP says it as the boot file.

use super::{Setting, Word};
use crate::utf16;

/// Why a boot URL names no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootUrlError {
    /// Not as the Boot Loader Interface has it.
    #[error("it is no text in UTF-16")]
    NotText,
    /// Plain HTTP, TFTP, a path. It is not made HTTPS here: that would be a guess at another server.
    #[error("{0:?} is not an https:// URL")]
    NotHttps(String),
}

/// The text of such an EFI variable: UTF-16, little endian, with a zero at its end.
///
/// # Errors
/// It is something else.
pub fn from_variable(data: &[u8]) -> Result<String, BootUrlError> {
    utf16::decode(data.strip_suffix(b"\0\0").unwrap_or(data)).ok_or(BootUrlError::NotText)
}

/// The repository of a netboot image at `url`: the directory that the image is in, `https://HOST/DIR/netboot.efi` →
/// `https://HOST/DIR`. A query and a fragment do not count.
///
/// # Errors
/// It is not HTTPS.
pub fn repository(url: &str) -> Result<Word, BootUrlError> {
    let scheme = "https://";
    let whole = url.split(['?', '#']).next().unwrap_or_default();
    let rest = match whole.split_at_checked(scheme.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(scheme) && !rest.is_empty() => rest,
        _ => return Err(BootUrlError::NotHttps(super::word::cut(url))),
    };
    let directory = rest.rsplit_once('/').map_or(rest, |(directory, _image)| directory).trim_end_matches('/');
    Ok(Word::new(Setting::Repository, &format!("{scheme}{directory}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn a_variable_is_utf_16_with_a_zero_at_its_end() {
        assert_eq!(from_variable(&utf16("https://a/é\0")).unwrap(), "https://a/é");
        assert_eq!(from_variable(&utf16("https://a")).unwrap(), "https://a");
        assert_eq!(from_variable(b"").unwrap(), "");
        for bad in [utf16("a\0b\0"), utf16("a\0\0"), b"abc".to_vec(), vec![0, 0xd8, 0, 0]] {
            assert_eq!(from_variable(&bad), Err(BootUrlError::NotText), "{bad:?}");
        }
    }

    #[test]
    fn the_repository_is_the_directory_of_the_image() {
        for (url, expected) in [
            ("https://a.test/os/netboot.efi", "https://a.test/os"),
            ("HTTPS://a.test:8443/os/x/netboot.efi?mac=1/2#/3", "https://a.test:8443/os/x"),
            ("https://a.test/netboot.efi", "https://a.test"),
            ("https://a.test/os//netboot.efi", "https://a.test/os"),
            ("https://a.test/os/", "https://a.test/os"),
            ("https://a.test", "https://a.test"),
        ] {
            assert_eq!(repository(url).unwrap(), Word::new(Setting::Repository, expected), "{url}");
        }
    }

    #[test]
    fn plain_http_names_no_repository() {
        for url in ["http://a.test/os/netboot.efi", "tftp://a.test/netboot.efi", "netboot.efi", "", "https://", "éééé"]
        {
            assert_eq!(repository(url), Err(BootUrlError::NotHttps(url.to_owned())));
        }
        let text = repository("http://a\u{1b}[2J").unwrap_err().to_string();
        assert_eq!(text, "\"http://a\\u{1b}[2J\" is not an https:// URL");
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..100), text in ".{0,40}") {
            if let Ok(url) = from_variable(&bytes) {
                let _: Result<Word, BootUrlError> = repository(&url);
            }
            if let Ok(word) = repository(&format!("https://{text}")) {
                prop_assert!(!word.value.unwrap_or_default().ends_with(b"/") || text.starts_with('/'));
            }
        }
    }
}
