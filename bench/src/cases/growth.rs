//! Images of growing size: memory must not grow with them, and time and CPU time no faster than they do.

use anyhow::{Context as _, Result};

use super::fresh::drop_page_cache;
use crate::disk::{Disk, Medium};
use crate::image::Recipe;
use crate::job::{Job, Sample};
use crate::lab::Lab;
use crate::peers::Tool;
use crate::release::Layout;

/// Names, bytes, and how many of them are unlike all others'. All are generated in the same way, so that nothing but that differs.
const SIZES: [(&str, u64, u64); 5] = [
    ("0.25", 1 << 28, 1 << 28),
    ("1", 1 << 30, 1 << 30),
    ("4", 1 << 32, 1 << 32),
    ("16", 1 << 34, 1 << 34),
    ("4-twice", 1 << 32, 1 << 31),
];
/// Bytes of the largest that peers get too: a payload of 16 GiB would be another 6 GB on the disk, and tell nothing new.
const FOR_PEERS: u64 = 1 << 32;
/// Bytes of memory that stay free beside a disk in memory.
const BESIDE: u64 = 4 << 30;

/// Measures all sizes.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    let limit = lab.options.size.saturating_mul(8);
    // Quick runs with a smaller --size leave the large ones out.
    for (name, size, unique) in SIZES.into_iter().filter(|(_, size, _)| *size <= limit) {
        let layout = Layout { slots: 1, root: size };
        let image = lab.image(&image_name(name), &Recipe::Mix { size, unique }, |_| layout)?;
        // Where memory has no room for the largest, it goes to the real disk.
        let fits = layout.disk_size().saturating_add(BESIDE) <= available()?;
        let medium = if fits { Medium::Ram } else { Medium::Real };
        let mut tools = vec![Tool::Metalstrap, Tool::MetalstrapNoReadBack];
        tools.extend((size <= FOR_PEERS).then_some(Tool::CurlZstdDd));
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

/// Its release has this as its version.
fn image_name(name: &str) -> String {
    format!("mix-{name}")
}

/// Bytes of memory that may be had.
fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.and_then(|kib: u64| kib.checked_mul(1024)).context("finding MemAvailable in /proc/meminfo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_each_image_is_a_version() {
        for (name, ..) in SIZES {
            let version = image_name(name);
            assert!(version.len() <= 12, "{version} is no version of a manifest");
        }
    }
}
