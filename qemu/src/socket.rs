//! Unix sockets in directories with long paths.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Listens on a socket `name` in `dir`. A socket's own path has at most 107 bytes, a run's directory may have more, so
/// the directory is named by its descriptor.
pub(crate) fn bind(dir: &Path, name: &str) -> Result<UnixListener> {
    let path = dir.join(name);
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    let open = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
    let short = format!("/proc/self/fd/{}/{name}", open.as_raw_fd());
    UnixListener::bind(short).with_context(|| format!("listening on {}", path.display()))
}
