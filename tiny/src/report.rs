//! The one line that the tiny target says.

use serde::{Deserialize, Serialize};

/// What stands before the report.
pub const PREFIX: &str = "TINY-TARGET ";
/// What stands before the reason when there is nothing good to report.
pub const FAILED: &str = "TINY-TARGET-FAILED ";
/// What stands before each line of a probe.
pub const PROBED: &str = "TINY-TARGET-PROBED ";

/// What the tiny target found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// `roothash=` of the kernel command line.
    pub root_hash: String,
    /// Whether the hash tree and every block of data were checked up to it.
    pub root_is_verity: bool,
    /// Blocks of 4096 bytes that were checked.
    pub blocks: u64,
    /// PCR 13 of the bank sha256, lower case; none without a TPM.
    pub pcr13: Option<String>,
    /// The kernel command line.
    pub cmdline: String,
}

impl Report {
    /// Finds the report in a serial console's output; the last one counts.
    #[must_use]
    pub fn find(output: &str) -> Option<Self> {
        output.lines().rev().find_map(|line| serde_json::from_str(line.split_once(PREFIX)?.1.trim()).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_among_other_lines() {
        let report = Report {
            root_hash: "ab".into(),
            root_is_verity: true,
            blocks: 4096,
            pcr13: None,
            cmdline: "a=\"b c\"".into(),
        };
        let line = format!("{PREFIX}{}", serde_json::to_string(&report).unwrap());
        let text =
            r#"TINY-TARGET {"root_hash":"ab","root_is_verity":true,"blocks":4096,"pcr13":null,"cmdline":"a=\"b c\""}"#;
        assert_eq!(line, text);
        assert_eq!(Report::find(&format!("[ 1.0] x\r\n\r\n{line}\r\n[ 2.0] reboot: Power down\r\n")), Some(report));
        assert_eq!(Report::find("TINY-TARGET-FAILED no disk\n"), None);
    }
}
