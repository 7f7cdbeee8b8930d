//! How many connections are worth having: what the default of the site config was chosen by.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{fresh, links};
use crate::client::Client;
use crate::disk::{Disk, Medium};
use crate::image::Image;
use crate::job::Job;
use crate::lab::Lab;
use crate::link::{Kind, Link};
use crate::peers::Tool;

/// What is tried.
const COUNTS: [u64; 5] = [1, 2, 4, 8, 16];

/// Measures them over the loopback, where the processor decides, and over a link with loss and delay.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    let image = fresh::image(lab)?;
    let size = fresh::disk_size(&image);
    for count in COUNTS {
        measure(lab, &format!("connections-{count}"), count, &lab.loopback, &image, size)?;
    }
    let image = links::image(lab)?;
    let link = Link::new(lab, Kind::Lossy { milliseconds: 50, percent: 1 })?;
    for count in COUNTS {
        let size = links::layout(&image).disk_size();
        measure(lab, &format!("connections-{count}-50ms-1pct"), count, &link.client, &image, size)?;
    }
    Ok(())
}

fn measure(lab: &Lab, case: &str, count: u64, client: &Client, image: &Image, disk_size: u64) -> Result<()> {
    let site = fs::read(&client.site).context("reading the site config")?;
    let mut site: Value = serde_json::from_slice(&site).context("reading the site config")?;
    if let Value::Object(fields) = &mut site {
        fields.insert("connections".to_owned(), count.into());
    }
    let client = Client { site: lab.options.out.join("site-connections.json"), ..client.clone() };
    fs::write(&client.site, site.to_string()).context("writing a site config")?;
    lab.measure(case, &[Tool::MetalstrapNoReadBack], image, |tool| {
        let disk = Disk::blank(&lab.options.out, Medium::Ram, disk_size)?;
        Job { client: &client, ..Job::new(lab, tool, &disk, image) }.run(lab)
    })
}
