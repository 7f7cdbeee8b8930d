//! Slow links, and one that loses packets.

use anyhow::Result;
use metalstrap_release::site::CONNECTIONS;

use super::fresh;
use crate::disk::{Disk, Medium};
use crate::image::{Image, Recipe};
use crate::job::{Job, Sample};
use crate::lab::Lab;
use crate::link::{Kind, Link};
use crate::peers::Tool;
use crate::release::Layout;

/// Mbit/s that the machine itself has trouble to follow.
const FAST: u64 = 1000;

/// What a disk is to have room for.
pub fn layout(image: &Image) -> Layout {
    Layout { slots: 1, root: image.size }
}

/// What goes over the links of 100 Mbit/s and with loss.
///
/// # Errors
/// It cannot be made.
pub fn image(lab: &Lab) -> Result<Image> {
    lab.image("link-100", &Recipe::Files { size: 240 << 20, lz4: false }, layout)
}

/// The same for an OS of which a kernel and little else is left.
fn small_image(lab: &Lab) -> Result<Image> {
    lab.image("link-lossy", &Recipe::Files { size: 24 << 20, lz4: false }, layout)
}

/// Measures all links.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    let files = |name: &str, size: u64| lab.image(name, &Recipe::Files { size, lz4: false }, layout);
    // As large as each link carries in a time that is long against the start of a run.
    shaped(lab, 10, &files("link-10", 80 << 20)?, layout)?;
    shaped(lab, 100, &image(lab)?, layout)?;
    shaped(lab, 1000, &fresh::image(lab)?, |image| Layout { slots: 2, ..layout(image) })?;
    lossy(lab, "link-50ms-1pct", &image(lab)?)?;
    lossy(lab, "link-50ms-1pct-small", &small_image(lab)?)
}

/// curl once with one connection, and once with as many as metalstrap.
fn shaped(lab: &Lab, megabits: u64, image: &Image, layout: fn(&Image) -> Layout) -> Result<()> {
    let link = Link::new(lab, Kind::Shaped { megabits })?;
    let (case, connections) = (format!("link-{megabits}"), u64::from(CONNECTIONS));
    let mut tools = vec![Tool::Metalstrap, Tool::CurlZstdDd, Tool::CurlParallel];
    // Reading back takes time only where the link is not all that is waited for.
    tools.extend((megabits >= FAST).then_some(Tool::MetalstrapNoReadBack));
    lab.measure(&case, &tools, image, |tool| {
        let disk = Disk::blank(&lab.options.out, Medium::Ram, layout(image).disk_size())?;
        let before = link.sent()?;
        let job = Job { client: &link.client, connections, ..Job::new(lab, tool, &disk, image) };
        let sample = job.run(lab)?;
        let of_rate = |bytes: u64| bytes as f64 * 8.0 / sample.seconds / (megabits as f64 * 1e6);
        let more = vec![
            ("link_fraction", of_rate(sample.sent.bytes)),
            ("wire_fraction", of_rate(link.sent()?.saturating_sub(before))),
        ];
        Ok(Sample { more, ..sample })
    })
}

/// curl opens as many connections as metalstrap has been seen to use.
fn lossy(lab: &Lab, case: &str, image: &Image) -> Result<()> {
    let link = Link::new(lab, Kind::Lossy { milliseconds: 50, percent: 1 })?;
    let mut connections = 1;
    lab.measure(case, &[Tool::Metalstrap, Tool::CurlParallel], image, |tool| {
        let disk = Disk::blank(&lab.options.out, Medium::Ram, layout(image).disk_size())?;
        let job = Job { client: &link.client, connections, ..Job::new(lab, tool, &disk, image) };
        let sample = job.run(lab)?;
        if tool.is_metalstrap() {
            connections = sample.sent.connections;
        }
        Ok(sample)
    })
}
