//! What zstd's level costs and brings: what the default of `metalstrap publish` was chosen by.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::links;
use crate::client::Client;
use crate::disk::{Disk, Medium};
use crate::job::{Job, Sample};
use crate::lab::Lab;
use crate::link::{Kind, Link};
use crate::peers::Tool;
use crate::release::Repository;

/// What is tried.
const LEVELS: [i32; 6] = [3, 6, 9, 12, 15, 19];
/// Of the link over which it is installed a second time, where bytes are time.
const MEGABITS: u64 = 100;

/// Publishes the image at each level, into a repository that holds nothing yet, and installs it over the loopback and over
/// a link.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    let image = links::image(lab)?;
    let served = lab.options.out.join("served");
    let link = Link::new(lab, Kind::Shaped { megabits: MEGABITS })?;
    for level in LEVELS {
        let repository = Repository::at_level(&served, &lab.options.out.join("keys"), &lab.options.built, level)?;
        let begin = Instant::now();
        repository.publish_again(&image, links::layout(&image))?;
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = std::fs::metadata(repository.payload(&image)?).context("measuring a payload")?.len();
        let of_publish = [("publish_seconds", seconds), ("payload_bytes", bytes as f64)];
        for (name, on, address) in
            [("", &lab.loopback, crate::lab::LOOPBACK), ("-link", &link.client, crate::link::SERVER)]
        {
            let client = Client { site: lab.options.out.join("site-level.json"), ..on.clone() };
            repository.site(&format!("{address}:{}", crate::server::PORT), &lab.tls, &client.site)?;
            lab.measure(&format!("level-{level}{name}"), &[Tool::MetalstrapNoReadBack], &image, |tool| {
                let disk = Disk::blank(&lab.options.out, Medium::Ram, links::layout(&image).disk_size())?;
                let sample = Job { client: &client, ..Job::new(lab, tool, &disk, &image) }.run(lab)?;
                Ok(Sample { more: of_publish.to_vec(), ..sample })
            })?;
        }
        repository.remove()?;
    }
    Ok(())
}
