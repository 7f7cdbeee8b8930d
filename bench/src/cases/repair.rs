//! Repairing an installed slot of which some blocks are damaged.

use anyhow::{Context as _, Result};

use super::{fresh, reimage};
use crate::absent::Absent;
use crate::changes::{drawn, single};
use crate::disk::{Disk, Medium};
use crate::job::{Job, slots};
use crate::lab::Lab;
use crate::peers::{Tool, knows};

/// Damaged blocks, each of which must be fetched.
const DAMAGED: [u64; 3] = [1, 100, 10_000];

/// Measures all numbers of damaged blocks.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    if let Some(reason) = knows(&lab.installer, "repair", "--disk") {
        let absent = |case: String| {
            lab.absent(&case.clone(), vec![Absent { case, tool: "metalstrap".into(), reason: reason.clone() }])
        };
        return DAMAGED.iter().try_for_each(|count| absent(format!("repair-{count}")));
    }
    let image = fresh::image(lab)?;
    let size = fresh::disk_size(&image);
    let installed = reimage::installed(lab, &image, size)?;
    let start = slot(lab)?;
    let single = single(&image.root(), image.blocks())?;
    for count in DAMAGED {
        let damaged = drawn(&single, count, count);
        lab.measure(&format!("repair-{count}"), &[Tool::Metalstrap], &image, |tool| {
            let disk = Disk::blank(&lab.options.out, Medium::Ram, size)?;
            disk.restore(&installed)?;
            disk.damage(start, damaged.iter().copied())?;
            Job { verb: "repair", at: Some(start), ..Job::new(lab, tool, &disk, &image) }.run(lab)
        })?;
    }
    Ok(())
}

/// The first byte of the slot that was installed to last.
fn slot(lab: &Lab) -> Result<u64> {
    let told = lab.options.out.join("runs").join(Tool::Metalstrap.name()).join("stdout");
    let events = std::fs::read_to_string(&told).with_context(|| format!("reading {}", told.display()))?;
    // A blank disk is installed to the first slot.
    slots(&events)?.first().map(|(_, start)| *start).context("finding the slot that was installed to")
}
