//! One `metalstrap.KEY=VALUE` of a source, as bytes that nobody has looked at yet.

use super::Setting;

/// What our words begin with, in every source.
pub const PREFIX: &str = "metalstrap.";

/// Bytes of a value at most: what x86 kernels take as a whole command line.
const MAX_VALUE: usize = 2048;
/// Characters that a message shows of a text from outside.
const SHOWN: usize = 80;

/// Whether a source may have words for us at all. One that has not need not be parsed: many a machine's SMBIOS table is
/// damaged, and that is not to keep it from being installed.
#[must_use]
pub fn mentioned(source: &[u8]) -> bool {
    source.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes())
}

/// A setting as a source says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What stands between [`PREFIX`] and the first `=`.
    pub key: Vec<u8>,
    /// What stands behind it; absent where there is no `=`.
    pub value: Option<Vec<u8>>,
}

impl Word {
    /// A setting and a value that come from us.
    #[must_use]
    pub fn new(setting: Setting, value: &str) -> Self {
        Self { key: setting.name().as_bytes().to_vec(), value: Some(value.as_bytes().to_vec()) }
    }

    /// Which setting it is; none where there is no such one.
    #[must_use]
    pub fn setting(&self) -> Option<Setting> {
        Setting::ALL.into_iter().find(|setting| setting.name().as_bytes() == self.key)
    }

    /// The key for a message, not longer than one takes.
    #[must_use]
    pub fn shown_key(&self) -> String {
        cut(&String::from_utf8_lossy(&self.key))
    }

    /// The value, which is printable ASCII; else what is wrong with it.
    ///
    /// # Errors
    /// There is none, or it has other characters or too many. No value holds anything else, and so none steers a terminal.
    pub fn text(&self) -> Result<&str, String> {
        let value = self.value.as_deref().ok_or("has no value")?;
        if value.len() > MAX_VALUE {
            return Err(format!("has {} bytes, more than the {MAX_VALUE} allowed", value.len()));
        }
        let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        text.ok_or_else(|| "holds something else than printable ASCII characters".to_owned())
    }
}

/// At most so many characters as a message shows.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_our_prefix_is_told_at_once() {
        assert!(mentioned(b"\0\xffmetalstrap.x") && mentioned(b"metalstrap."));
        assert!(!mentioned(b"metalstrap") && !mentioned(b"") && !mentioned(b"Metalstrap."));
    }
}
