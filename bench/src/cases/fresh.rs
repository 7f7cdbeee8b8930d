//! Installing to a blank disk.

use std::fs;

use anyhow::{Context as _, Result};

use crate::disk::{Disk, Medium};
use crate::image::{Image, Recipe};
use crate::job::Job;
use crate::lab::Lab;
use crate::peers::Tool;
use crate::release::Layout;

/// The image of real files, uncompressed.
///
/// # Errors
/// It cannot be made.
pub fn image(lab: &Lab) -> Result<Image> {
    real(lab, "plain", false)
}

fn real(lab: &Lab, name: &str, lz4: bool) -> Result<Image> {
    let size = lab.options.size;
    let name = format!("{name}-{}m", size >> 20);
    lab.image(&name, &Recipe::Files { size, lz4 }, |image| Layout { slots: 2, root: image.size })
}

/// Bytes of a disk for `image` with two slots.
pub fn disk_size(image: &Image) -> u64 {
    Layout { slots: 2, root: image.size }.disk_size()
}

/// Measures all tools with the uncompressed image, and the fast ones with the compressed one.
///
/// # Errors
/// The first run that fails.
pub fn on_tmpfs(lab: &Lab) -> Result<()> {
    let all: Vec<Tool> = Tool::INSTALLERS.into_iter().chain(Tool::LIMITS).collect();
    measure(lab, "fresh", &image(lab)?, &all, Medium::Ram)?;
    let fast = [
        Tool::Metalstrap,
        Tool::MetalstrapNoReadBack,
        Tool::CoreosInstallerZst,
        Tool::CurlZstdDd,
        Tool::CurlZstdShaDd,
        Tool::LimitDd,
        Tool::LimitZstd,
        Tool::LimitSha256,
    ];
    measure(lab, "fresh-lz4", &real(lab, "lz4", true)?, &fast, Medium::Ram)
}

/// Measures the fast tools.
///
/// # Errors
/// The first run that fails.
pub fn on_the_real_disk(lab: &Lab) -> Result<()> {
    let tools = [
        Tool::Metalstrap,
        Tool::MetalstrapNoReadBack,
        Tool::CoreosInstallerZst,
        Tool::CurlZstdDd,
        Tool::CurlZstdShaDd,
        Tool::LimitDd,
    ];
    measure(lab, "fresh-disk", &image(lab)?, &tools, Medium::Real)
}

fn measure(lab: &Lab, case: &str, image: &Image, tools: &[Tool], medium: Medium) -> Result<()> {
    lab.measure(case, tools, image, |tool| {
        let disk = Disk::blank(&lab.options.out, medium, disk_size(image))?;
        if medium == Medium::Real {
            drop_page_cache(lab, tool, image)?;
        }
        Job::new(lab, tool, &disk, image).run(lab)
    })
}

/// Nothing of the disk is in memory afterwards. What `tool` is sent is, as in a server of its own it would be.
///
/// # Errors
/// It may not be dropped, or something cannot be read.
pub fn drop_page_cache(lab: &Lab, tool: Tool, image: &Image) -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache")?;
    let path = match tool.form() {
        Some(form) => image.dir.join(Image::file(form)),
        None if tool.is_metalstrap() => lab.repository.payload(image)?,
        None => image.root(),
    };
    let reading = || format!("reading {}", path.display());
    let mut file = fs::File::open(&path).with_context(reading)?;
    std::io::copy(&mut file, &mut std::io::sink()).map(drop).with_context(reading)
}
