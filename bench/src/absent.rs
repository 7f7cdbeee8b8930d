//! What could not be measured, and why: said at once, and kept for the table.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A tool that a case had to do without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Absent {
    /// Which case.
    pub case: String,
    /// Which tool.
    pub tool: String,
    /// Why.
    pub reason: String,
}

/// Reads what was absent before.
///
/// # Errors
/// It cannot be read as what it is.
pub fn read(out: &Path) -> Result<Vec<Absent>> {
    let path = out.join("absent.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

/// Sets what is absent from `case` now, and writes all.
///
/// # Errors
/// It cannot be written.
pub fn set(out: &Path, all: &mut Vec<Absent>, case: &str, absent: Vec<Absent>) -> Result<()> {
    for Absent { tool, reason, .. } in &absent {
        println!("{case:24} {tool:24} absent: {reason}");
    }
    all.retain(|old| old.case != case);
    all.extend(absent);
    all.sort();
    let path = out.join("absent.json");
    fs::write(&path, serde_json::to_vec_pretty(all)?).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_is_run_again_forgets_what_was_absent() {
        let dir = tempfile::tempdir().unwrap();
        let of = |case: &str, tool: &str| Absent { case: case.into(), tool: tool.into(), reason: "why".into() };
        let mut all = read(dir.path()).unwrap();
        set(dir.path(), &mut all, "fresh", vec![of("fresh", "casync"), of("fresh", "bmaptool")]).unwrap();
        set(dir.path(), &mut all, "reinstall", vec![of("reinstall", "casync")]).unwrap();
        set(dir.path(), &mut all, "fresh", vec![]).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [of("reinstall", "casync")]);
    }
}
