//! The directory of one run: logs, disks, sockets. It stays when the run fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A directory under `out/runs`. It is removed by [`RunDir::passed`]; dropped otherwise, it says where the logs are.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    passed: bool,
}

impl RunDir {
    /// Makes a directory whose name starts with `name`. `METALSTRAP_RUNS` names another place than `out/runs`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../out/runs"));
        let runs = std::env::var_os("METALSTRAP_RUNS").map_or_else(default, PathBuf::from);
        fs::create_dir_all(&runs).with_context(|| format!("making {}", runs.display()))?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&runs)
            .with_context(|| format!("making a directory in {}", runs.display()))?;
        Ok(Self { path: fs::canonicalize(dir.keep())?, passed: false })
    }

    /// Where it is (absolute).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run was good: removes the directory.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn passed(mut self) -> Result<()> {
        self.passed = true;
        fs::remove_dir_all(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.passed {
            eprintln!("the logs of this run are in {}", self.path.display());
        }
    }
}
