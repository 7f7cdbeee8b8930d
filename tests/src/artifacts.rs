//! What `make images` has built, and where.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_initrd::kernel::Kernel;
use metalstrap_initrd::netboot::{NetbootOptions, NetbootSizes, netboot};
use metalstrap_initrd::uki::BootTools;
use metalstrap_release::site::Site;

/// The directory that everything made goes below.
#[must_use]
pub fn out() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../out"))
}

/// `path` below [`out`], which `make images` makes.
///
/// # Errors
/// It is not there.
pub fn built(path: &str) -> Result<PathBuf> {
    let full = out().join(path);
    ensure!(full.exists(), "out/{path} is missing: run `make images`");
    Ok(full)
}

/// A program of this workspace, in the profile's directory beside the running one.
///
/// # Errors
/// It was not built.
pub fn program(profile: &str, name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe().context("asking for the running program's path")?;
    // …/<triple>/debug/demo or …/<triple>/debug/deps/scenarios-<hash>
    let found = running.ancestors().map(|dir| dir.join(profile).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("finding {name} in the profile {profile}: run `make images`"))
}

/// The installer as the netboot image holds it.
///
/// # Errors
/// It was not built.
pub fn installer() -> Result<PathBuf> {
    program("release", "metalstrap-installer")
}

/// Which kernel package a netboot image is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// For virtual machines.
    Cloud,
    /// For hardware.
    Generic,
}

impl Flavour {
    /// The kernel that `make images` has unpacked from it.
    ///
    /// # Errors
    /// It is not there.
    pub fn kernel(self) -> Result<Kernel> {
        Kernel::find(&built(if self == Self::Cloud { "kernels/cloud" } else { "kernels/generic" })?)
    }
}

/// systemd's ukify, EFI stub and boot loader.
///
/// # Errors
/// They are not there.
pub fn boot_tools() -> Result<BootTools> {
    BootTools::find(&built("boot-tools")?)
}

/// Makes a netboot image for `site`.
///
/// # Errors
/// A part is missing, or ukify failed.
pub fn netboot_image(site: &Site, flavour: Flavour, cmdline_extra: &str, output: &Path) -> Result<NetbootSizes> {
    netboot_with(site, flavour, cmdline_extra, Vec::new(), output)
}

/// What the kernels of scenarios are told besides: without KVM on a busy host Linux now and then takes its timer for broken, and
/// panics ("IO-APIC + timer doesn't work!"). `metalstrap vm` lets such a machine start again; a scenario would fail.
pub const TRUST_TIMER: &str = "no_timer_check";

/// Makes a netboot image with further files (path, mode, bytes) in its initrd.
///
/// # Errors
/// A part is missing, or ukify failed.
pub fn netboot_with(
    site: &Site,
    flavour: Flavour,
    cmdline_extra: &str,
    extra_files: Vec<(String, u32, Vec<u8>)>,
    output: &Path,
) -> Result<NetbootSizes> {
    netboot(&NetbootOptions {
        kernel: flavour.kernel()?,
        installer: installer()?,
        site: serde_json::to_vec_pretty(site)?,
        build_time: build_time()?,
        tools: boot_tools()?,
        cmdline_extra: format!("{TRUST_TIMER} {cmdline_extra}").trim_end().to_owned(),
        extra_files,
        cache: Some(out().join("cache/initrd")),
        output: output.to_owned(),
    })
}

/// Seconds since 1970 of the commit that is built: `SOURCE_DATE_EPOCH`, which the Makefile sets.
///
/// # Errors
/// It is set to no number.
pub fn build_time() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("reading SOURCE_DATE_EPOCH={text}")),
        Err(_) => Ok(0),
    }
}
