//! The file with settings on a medium: a stick, a disc, or what a BMC makes of an image. Nobody else has anything in it, so
//! that a line which is not for us is a slip.

use super::word::cut;
use super::{PREFIX, Word};

/// Label of the file system that has it: FAT's volume label, ISO 9660's volume identifier. Case does not count.
pub const LABEL: &str = "METALSTRAP";
/// Its name in the root directory, in any case. It is as short as FAT and ISO 9660 have names without their extensions.
pub const FILE: &str = "SETTINGS.TXT";
/// Bytes of it at most: every setting with its longest value, and as much of comments.
pub const MAX_BYTES: u32 = 32 << 10;
/// What editors of Windows put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why such a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} is {text:?}, neither metalstrap.KEY=VALUE nor a comment (#)")]
pub struct MediumError {
    /// The line's number, from 1 on.
    number: usize,
    /// Its text, cut.
    text: String,
}

/// The settings of such a file: `metalstrap.KEY=VALUE`, one a line, with nothing quoted. Empty lines do not count, nor those that
/// begin with `#`, nor white space at both ends of key and value.
///
/// # Errors
/// The first line that is something else.
pub fn words(bytes: &[u8]) -> Result<Vec<Word>, MediumError> {
    let mut words = Vec::new();
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    for (line, number) in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1..) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some(setting) = line.strip_prefix(PREFIX.as_bytes()) else {
            return Err(MediumError { number, text: cut(&String::from_utf8_lossy(line)) });
        };
        let mut parts = setting.splitn(2, |byte| *byte == b'=').map(|part| part.trim_ascii().to_vec());
        words.push(Word { key: parts.next().unwrap_or_default(), value: parts.next() });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::Setting;

    #[test]
    fn lines_of_any_editor_are_read() {
        let text = "\u{feff}# Rack 7\r\n\r\n  metalstrap.host = serial-7XK\t\r\nmetalstrap.mirrors=https://a https://b\n\
                    metalstrap.report_url=https://r/?a=b";
        let expected = [
            Word::new(Setting::Host, "serial-7XK"),
            Word::new(Setting::Mirrors, "https://a https://b"),
            Word::new(Setting::ReportUrl, "https://r/?a=b"),
        ];
        assert_eq!(words(text.as_bytes()).unwrap(), expected);
        assert_eq!(words(b"").unwrap(), []);
        let bare = Word { key: b"host".to_vec(), value: None };
        assert_eq!(words(b"metalstrap.host").unwrap(), [bare]);
    }

    #[test]
    fn a_line_that_is_not_for_us_is_refused_by_number() {
        let long = "a".repeat(99);
        for (text, number, shown) in [
            ("\nhost=default", 2, "host=default".to_owned()),
            ("metalstrap.host=a\n metalstrap=b", 2, "metalstrap=b".to_owned()),
            ("Metalstrap.host=a", 1, "Metalstrap.host=a".to_owned()),
            ("\u{1b}[2J\u{202e}", 1, "\\u{1b}[2J\\u{202e}".to_owned()),
            (long.as_str(), 1, "a".repeat(80)),
        ] {
            let expected = format!("line {number} is \"{shown}\", neither metalstrap.KEY=VALUE nor a comment (#)");
            assert_eq!(words(text.as_bytes()).unwrap_err().to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = [b"metalstrap.host=", bytes.as_slice()].concat();
            for text in [text, bytes] {
                if let Ok(words) = words(&text) {
                    prop_assert!(words.len() <= text.split(|byte| *byte == b'\n').count());
                }
            }
        }
    }
}
