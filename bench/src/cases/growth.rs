//! Images of growing size: memory must not grow with them, and time and CPU time no faster than they do.

use anyhow::Result;

use super::fresh::drop_page_cache;
use crate::disk::{Disk, Medium};
use crate::image::Recipe;
use crate::job::{Job, Sample};
use crate::lab::Lab;
use crate::peers::Tool;
use crate::release::Layout;

/// Names and bytes. All are generated in the same way, so that nothing but the size differs.
const SIZES: [(&str, u64); 4] = [("0.25", 1 << 28), ("1", 1 << 30), ("4", 1 << 32), ("16", 1 << 34)];
/// The largest does not fit into memory beside the rest: it goes to the real disk, and takes its time.
const LARGEST_IN_RAM: u64 = 1 << 32;
const RUNS_OF_THE_LARGEST: u32 = 1;

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
        let medium = if size > LARGEST_IN_RAM { Medium::Real } else { Medium::Ram };
        if medium == Medium::Real {
            lab.at_most(RUNS_OF_THE_LARGEST);
        }
        let tools = [Tool::Metalstrap, Tool::MetalstrapNoReadBack, Tool::CurlZstdDd];
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
