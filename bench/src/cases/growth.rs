//! Images of growing size: memory must not grow with them, and time and CPU time no faster than they do.

use anyhow::{Context as _, Result};

use super::fresh::drop_page_cache;
use crate::disk::{Disk, Medium};
use crate::image::Recipe;
use crate::job::{Job, Sample};
use crate::lab::Lab;
use crate::peers::Tool;
use crate::release::Layout;

/// Names and bytes. All are generated in the same way, so that nothing but the size differs.
const SIZES: [(&str, u64); 4] = [("0.25", 1 << 28), ("1", 1 << 30), ("4", 1 << 32), ("16", 1 << 34)];
/// What takes minutes is measured once.
const OFTEN: u64 = 1 << 32;
/// Bytes of memory that stay free beside a disk in memory.
const BESIDE: u64 = 4 << 30;

/// Measures all sizes.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    let limit = lab.options.size.saturating_mul(8);
    // Quick runs with a smaller --size leave the large ones out.
    for (name, size) in SIZES.into_iter().filter(|(_, size)| *size <= limit) {
        let layout = Layout { slots: 1, root: size };
        let image = lab.image(&format!("mix-{name}"), &Recipe::Mix { size }, |_| layout)?;
        // Where memory has no room for the largest, it goes to the real disk.
        let fits = layout.disk_size().saturating_add(BESIDE) <= available()?;
        let medium = if fits { Medium::Ram } else { Medium::Real };
        if size > OFTEN {
            lab.at_most(1);
        }
        let mut tools = vec![Tool::Metalstrap, Tool::MetalstrapNoReadBack];
        // A peer's payload of the largest would be another 6 GB on the disk, and tell nothing new.
        tools.extend((size <= OFTEN).then_some(Tool::CurlZstdDd));
        lab.measure(&format!("size-{name}"), &tools, &image, |tool| {
            let disk = Disk::blank(&lab.options.out, medium, layout.disk_size())?;
            if medium == Medium::Real {
                drop_page_cache(lab, tool, &image)?;
            }
            let sample = Job::new(lab, tool, &disk, &image).run(lab)?;
            let gib = size as f64 / f64::from(1 << 30);
            Ok(Sample { more: vec![("cpu_seconds_per_gib", sample.cpu_seconds / gib)], ..sample })
        })?;
    }
    Ok(())
}

/// Bytes of memory that may be had.
fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.and_then(|kib: u64| kib.checked_mul(1024)).context("finding MemAvailable in /proc/meminfo")
}
