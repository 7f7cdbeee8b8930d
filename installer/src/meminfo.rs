//! Memory of the machine and of this process.

use std::fs;

use anyhow::{Context as _, Result};

/// `MemAvailable` of `/proc/meminfo` in bytes.
///
/// # Errors
/// The file cannot be read or has no such line.
pub fn mem_available() -> Result<u64> {
    field("/proc/meminfo", "MemAvailable")
}

/// The most memory this process had resident so far in bytes: `VmHWM` of `/proc/self/status`.
///
/// # Errors
/// The file cannot be read or has no such line.
pub fn peak_rss() -> Result<u64> {
    field("/proc/self/status", "VmHWM")
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    parse_kib(&text, name).with_context(|| format!("finding {name} in {path}"))
}

/// The value of `name: N kB` in bytes.
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_whole_name_only() {
        let text = "MemTotal:        1000 kB\nMemAvailable:      12 kB\nHugePages_Total:       0\n";
        assert_eq!(parse_kib(text, "MemAvailable"), Some(12 * 1024));
        assert_eq!(parse_kib(text, "Mem"), None);
        assert_eq!(parse_kib(text, "HugePages_Total"), None);
        assert_eq!(parse_kib("VmHWM:\t18446744073709551615 kB\n", "VmHWM"), None);
    }

    #[test]
    fn reads_this_machine() {
        assert!(mem_available().unwrap() > 1 << 20);
        assert!(peak_rss().unwrap() > 1 << 20);
    }
}
