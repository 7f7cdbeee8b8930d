//! OVMF: where Debian keeps it, and a copy of its variables for each machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Code and variables of one firmware build; Debian 12 and 13 both ship the 4 MiB form under these names.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The firmware's code, shared and never written.
pub(crate) fn code() -> Result<PathBuf> {
    let code = Path::new(CODE);
    if !code.exists() {
        bail!("OVMF is not installed: run `make deps`");
    }
    Ok(code.to_owned())
}

/// The machine's own variables in `dir`: made from the template at its first start, kept over power cycles.
pub(crate) fn variables(dir: &Path) -> Result<PathBuf> {
    let variables = dir.join("vars.fd");
    if !variables.exists() {
        let template = fs::read(VARIABLES).with_context(|| format!("reading {VARIABLES}"))?;
        // Written, not copied: the template's mode may be read-only.
        fs::write(&variables, template).with_context(|| format!("writing {}", variables.display()))?;
    }
    Ok(variables)
}
