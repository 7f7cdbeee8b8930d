//! What a UKI's `.osrel` section says about the OS: systemd-boot lists a UKI by it, and puts UKIs in order by it before it looks
//! at their names (os-release(5); systemd `src/fundamental/bootspec.c`).

/// The fields that systemd-boot goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    fields: Vec<(String, String)>,
}

impl OsRelease {
    /// Reads `KEY=VALUE` lines, with or without quotes around the value. What is no such line is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (key, value) = line.trim().split_once('=').filter(|(key, _)| !key.starts_with('#'))?;
            let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
            Some((key.to_owned(), quoted('"').or_else(|| quoted('\'')).unwrap_or(value).to_owned()))
        };
        Self { fields: text.split(['\n', '\0']).filter_map(line).collect() }
    }

    /// The value of the first of `keys` that is there and is not empty.
    fn first(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.get(key))
    }

    /// The value of a key; `None` if it is empty. The last one counts, as in a shell.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let value = self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// What systemd-boot's menu calls it; without that it does not list it.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.first(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"])
    }

    /// The version by which systemd-boot puts UKIs of one OS in order.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.first(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_what_systemd_boot_takes() {
        let text = "# IMAGE_VERSION=0\nNAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID='13'\nIMAGE_VERSION=7\nodd\nEMPTY=\n\0\0";
        let debian = OsRelease::parse(text);
        assert_eq!((debian.title(), debian.version()), (Some("Debian GNU/Linux"), Some("7")));
        assert_eq!((debian.get("ID"), debian.get("EMPTY"), debian.get("NONE")), (Some("debian"), None, None));
        let plain = OsRelease::parse("ID=a\nID=b\nVERSION_ID=\"13\"");
        assert_eq!((plain.title(), plain.version()), (Some("b"), Some("13")));
        assert_eq!(OsRelease::parse(""), OsRelease::default());
        assert_eq!(OsRelease::parse("VERSION_ID=1").title(), None);
    }
}
