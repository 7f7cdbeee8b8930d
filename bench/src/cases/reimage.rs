//! Installing over another release, and over the same one.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::fresh;
use crate::changes::{RUN, five_percent};
use crate::disk::{Disk, Medium};
use crate::image::{Image, Recipe};
use crate::job::Job;
use crate::lab::Lab;
use crate::peers::Tool;
use crate::release::Layout;

/// casync's seed is the old image in a file beside the disk, as another slot would be; curl writes all anew.
const TOOLS: [Tool; 4] = [Tool::Metalstrap, Tool::MetalstrapNoReadBack, Tool::Casync, Tool::CurlZstdDd];

/// What is in the slots is 206 MB of the demo OS.
const DEMO_SLOT: u64 = 256 << 20;

/// The demo OS over the release before.
///
/// # Errors
/// The first run that fails.
pub fn upgrade(lab: &Lab) -> Result<()> {
    let layout = |_: &Image| Layout { slots: 2, root: DEMO_SLOT };
    let old = lab.image("demo-old", &Recipe::Demo { new: false }, layout)?;
    let new = lab.image("demo-new", &Recipe::Demo { new: true }, layout)?;
    let size = layout(&new).disk_size();
    measure(lab, "reimage-upgrade", &old, &new, size, &TOOLS)
}

/// 5% in runs.
///
/// # Errors
/// The first run that fails.
pub fn runs(lab: &Lab) -> Result<()> {
    changed(lab, "reimage-5pct", "runs", RUN)
}

/// 5% in single blocks.
///
/// # Errors
/// The first run that fails.
pub fn scattered(lab: &Lab) -> Result<()> {
    changed(lab, "reimage-5pct-scattered", "scat", 1)
}

fn changed(lab: &Lab, case: &str, name: &str, length: u64) -> Result<()> {
    let old = fresh::image(lab)?;
    let name = format!("{name}-{}m", lab.options.size >> 20);
    let recipe = Recipe::Changed { of: old.clone(), places: five_percent(old.blocks(), length) };
    let new = lab.image(&name, &recipe, |image| Layout { slots: 2, root: image.size })?;
    measure(lab, case, &old, &new, fresh::disk_size(&new), &TOOLS)
}

/// The same release.
///
/// # Errors
/// The first run that fails.
pub fn reinstall(lab: &Lab) -> Result<()> {
    let image = fresh::image(lab)?;
    let tools = [Tool::Metalstrap, Tool::MetalstrapNoReadBack, Tool::CurlZstdDd];
    measure(lab, "reinstall", &image, &image, fresh::disk_size(&image), &tools)
}

fn measure(lab: &Lab, case: &str, old: &Image, new: &Image, size: u64, tools: &[Tool]) -> Result<()> {
    let installed = installed(lab, old, size)?;
    lab.measure(case, tools, new, |tool| {
        let disk = Disk::blank(&lab.options.out, Medium::Ram, size)?;
        if tool.is_metalstrap() {
            disk.restore(&installed)?;
        }
        let old = old.root();
        Job { seed: Some(&old), ..Job::new(lab, tool, &disk, new) }.run(lab)
    })
}

/// A disk with `image` installed by metalstrap, kept in a file.
///
/// # Errors
/// The installation fails, or there is no room.
pub fn installed(lab: &Lab, image: &Image, size: u64) -> Result<PathBuf> {
    let kept = lab.options.out.join("ram/installed.raw");
    let disk = Disk::blank(&lab.options.out, Medium::Ram, size)?;
    Job::new(lab, Tool::Metalstrap, &disk, image).run(lab).context("installing what is to be there before")?;
    disk.keep(&kept)?;
    Ok(kept)
}
