//! Which disk a release goes to: rules over what a disk is known by.

use serde::{Deserialize, Serialize};

use super::KIND;
use crate::document::DocumentError;

/// Rules a disk must keep to, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DiskSelector {
    /// Exact serial number.
    #[serde(default)]
    pub serial: Option<String>,
    /// Exact WWID, as in sysfs.
    #[serde(default)]
    pub wwid: Option<String>,
    /// Exact path by bus, as in `/dev/disk/by-path`: `pci-0000:01:00.0-nvme-1`. It names the port, whatever disk is in it.
    #[serde(default)]
    pub by_path: Option<String>,
    /// Model; `*` stands for any characters, `?` for any one. White space at the ends does not count.
    #[serde(default)]
    pub model: Option<String>,
    /// Transport: `nvme`, `virtio`, `sata`, `sas`, `scsi`, `mmc`, `usb`.
    #[serde(default)]
    pub transport: Option<String>,
    /// Conditions on the size, all of which must hold: `>= 480 GB, < 2 TB`. Operators `>=`, `>`, `<=`, `<`, `=`; units B,
    /// KB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024).
    #[serde(default)]
    pub size: Option<String>,
    /// Whether it spins.
    #[serde(default)]
    pub rotational: Option<bool>,
    /// Bytes of a logical sector: 512 or 4096.
    #[serde(default)]
    pub sector_size: Option<u32>,
}

/// How disks are attached, as the installer tells it.
const TRANSPORTS: [&str; 7] = ["nvme", "virtio", "sata", "sas", "scsi", "mmc", "usb"];

impl DiskSelector {
    /// Values that no disk can have are mistakes.
    pub(super) fn check(&self) -> Result<(), DocumentError> {
        let texts = [
            ("disk.serial", &self.serial),
            ("disk.wwid", &self.wwid),
            ("disk.by_path", &self.by_path),
            ("disk.model", &self.model),
        ];
        for (field, text) in texts {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return KIND.refuse(field, "is empty");
            }
        }
        if let Some(other) = self.transport.as_deref().filter(|transport| !TRANSPORTS.contains(transport)) {
            return KIND.refuse("disk.transport", format!("is {other:?}, not one of {}", TRANSPORTS.join(", ")));
        }
        if let Some(other) = self.sector_size.filter(|size| !matches!(size, 512 | 4096)) {
            return KIND.refuse("disk.sector_size", format!("is {other}, not 512 or 4096"));
        }
        match self.size.as_deref().map(Sizes::parse) {
            Some(Err(problem)) => KIND.refuse("disk.size", problem),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Whether it names one disk or one port, so that a disk is meant even where the installer would not look for one by
    /// itself.
    #[must_use]
    pub fn names_one(&self) -> bool {
        self.serial.is_some() || self.wwid.is_some() || self.by_path.is_some()
    }
}

/// The sizes that conditions leave: from the least to the greatest, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    least: u64,
    greatest: u64,
}

impl Sizes {
    /// Parses conditions as `>= 480 GB, < 2 TB`.
    ///
    /// # Errors
    /// Says which condition is none, or that no size is left.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut sizes = Self { least: 0, greatest: u64::MAX };
        for condition in text.split(',') {
            let none = || format!("holds {:?}, which is no condition as \">= 480 GB\"", condition.trim());
            sizes = sizes.and(condition.trim()).ok_or_else(none)?;
        }
        if sizes.least > sizes.greatest {
            return Err(format!("is {text:?}, which no size fulfils"));
        }
        Ok(sizes)
    }

    /// What one more condition leaves.
    fn and(self, condition: &str) -> Option<Self> {
        let at = condition.find(|c: char| !"<>=".contains(c))?;
        let (operator, size) = condition.split_at_checked(at)?;
        let bytes = bytes(size.trim())?;
        let (least, greatest) = match operator {
            ">=" => (bytes, u64::MAX),
            ">" => (bytes.checked_add(1)?, u64::MAX),
            "<=" => (0, bytes),
            "<" => (0, bytes.checked_sub(1)?),
            "=" => (bytes, bytes),
            _ => return None,
        };
        Some(Self { least: self.least.max(least), greatest: self.greatest.min(greatest) })
    }

    /// Whether a size is one of them.
    #[must_use]
    pub fn contains(self, bytes: u64) -> bool {
        (self.least..=self.greatest).contains(&bytes)
    }
}

/// Bytes of `1.92 TB`. What is less than a byte does not count.
fn bytes(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(at)?;
    let unit: u128 = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1000_u128.pow(2),
        "GB" => 1000_u128.pow(3),
        "TB" => 1000_u128.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // More digits than this say nothing about a disk.
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || number.len() > 24 {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits = whole.parse::<u128>().ok()?.checked_mul(scale)?.checked_add(fraction.parse().ok()?)?;
    u64::try_from(digits.checked_mul(unit)?.checked_div(scale)?).ok()
}

/// Whether `text` is as `pattern` says: `*` stands for any characters, `?` for any one, all others for themselves.
#[must_use]
pub fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut next) = (0, 0);
    // Where to go on if what follows the last star does not fit: behind the star, one character later.
    let mut retry = None;
    while let Some(c) = text.get(at) {
        match pattern.get(next) {
            Some('*') => {
                next += 1;
                retry = Some((next, at));
            }
            Some(wanted) if *wanted == '?' || wanted == c => (at, next) = (at + 1, next + 1),
            _ => {
                let Some((star, from)) = retry else { return false };
                (at, next) = (from + 1, star);
                retry = Some((star, at));
            }
        }
    }
    pattern.get(next..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_what_their_conditions_leave() {
        let sizes = |text| Sizes::parse(text).map(|sizes| (sizes.least, sizes.greatest));
        assert_eq!(sizes(">= 480 GB, < 2 TB"), Ok((480_000_000_000, 1_999_999_999_999)));
        assert_eq!(sizes(">1KiB"), Ok((1025, u64::MAX)));
        assert_eq!(sizes("<=1.5 MiB"), Ok((0, 3 << 19)));
        assert_eq!(sizes("= 1.92 TB"), Ok((1_920_000_000_000, 1_920_000_000_000)));
        assert_eq!(sizes("=7,>=1 B"), Ok((7, 7)));
        for bad in [
            "",
            ">=",
            "480 GB",
            "=> 1 GB",
            ">= 1 gb",
            ">= -1",
            ">= 1.",
            ">= .5 GB",
            ">= 1.2.3",
            ">= 16777217 TiB",
            "< 0",
            "> 18446744073709551615",
            ">= 1 GB,",
            ">= 1e9",
        ] {
            let condition = bad.split(',').find(|part| Sizes::parse(part).is_err()).unwrap().trim();
            assert_eq!(sizes(bad), Err(format!("holds {condition:?}, which is no condition as \">= 480 GB\"")));
        }
        assert_eq!(sizes(">= 3, < 3"), Err("is \">= 3, < 3\", which no size fulfils".to_owned()));
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (text, pattern) in
            [("", ""), ("", "**"), ("a", "?"), ("Samsung SSD 980", "Samsung*980"), ("aab", "*ab"), ("abcab", "a*ab")]
        {
            assert!(is_like(text, pattern), "{text} {pattern}");
        }
        for (text, pattern) in
            [("", "?"), ("a", ""), ("ab", "a"), ("a", "ab"), ("ab", "*a"), ("A", "a"), ("[a]", "[a]x")]
        {
            assert!(!is_like(text, pattern), "{text} {pattern}");
        }
    }

    /// The same by recursion over all possibilities.
    fn simple(text: &[char], pattern: &[char]) -> bool {
        match (text, pattern) {
            ([], []) => true,
            (_, ['*', rest @ ..]) => simple(text, rest) || matches!(text, [_, later @ ..] if simple(later, pattern)),
            ([c, later @ ..], [p, rest @ ..]) => (*p == '?' || p == c) && simple(later, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_recursion_finds(text in "[ab]{0,8}", pattern in "[ab?*]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(is_like(&text, &pattern), simple(&chars(&text), &chars(&pattern)));
        }
    }
}
