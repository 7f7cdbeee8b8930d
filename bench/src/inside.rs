//! The place that everything runs in: namespaces of its own, which end with the bench, and take nginx, links and mounts
//! with them however it ends.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::programs::run;

/// Set inside.
const MARK: &str = "METALSTRAP_BENCH_INSIDE";

/// Starts this program again inside; returns there only.
///
/// # Errors
/// Not root, or no namespaces here.
pub fn enter(out: &Path) -> Result<()> {
    if std::env::var_os(MARK).is_some() {
        return furnish(out);
    }
    ensure!(geteuid().is_root(), "the bench makes loop devices, mounts and namespaces: run it as root");
    let this = std::env::current_exe().context("asking for the running program's path")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    bail!("starting unshare: {error}")
}

/// A loopback of its own (nobody else's bytes are counted), and a tmpfs for the disk.
fn furnish(out: &Path) -> Result<()> {
    run("ip", ["link", "set", "lo", "up"])?;
    let ram = out.join("ram");
    std::fs::create_dir_all(&ram).with_context(|| format!("making {}", ram.display()))?;
    run(
        "mount",
        ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), "size=24g".as_ref(), "bench".as_ref(), ram.as_os_str()],
    )
}
