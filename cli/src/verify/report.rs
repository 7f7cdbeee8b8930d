//! What was found.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use metalstrap_installer::clock::utc;
use metalstrap_installer::progress::Progress;
use metalstrap_installer::repository::Repository;
use metalstrap_release::manifest::Payload;
use metalstrap_release::metadata::Versions;
use serde::Serialize;

use crate::progress::Progress as Shown;

const DAY: i64 = 24 * 3600;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    repository: String,
    versions: Versions,
    /// Role to the time when its signatures end.
    expires: BTreeMap<&'static str, String>,
    releases: Vec<String>,
    hosts: Vec<String>,
    /// How many payloads were looked at.
    pub payloads: usize,
    /// What should be seen to soon.
    warnings: Vec<String>,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// What the metadata says.
    pub fn new(repository: &Repository, warn_days: u32) -> Self {
        let metadata = &repository.metadata;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let soon = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_add(i64::from(warn_days) * DAY);
        let ending = metadata.expires.iter().filter(|(_, at)| *at <= soon);
        let warnings: Vec<String> =
            ending.map(|(role, at)| format!("the {role} metadata expires at {}", utc(*at))).collect();
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        Self {
            repository: repository.source.describe(),
            versions: metadata.versions.clone(),
            expires: metadata.expires.iter().map(|(role, at)| (*role, utc(*at))).collect(),
            releases: metadata.releases.keys().cloned().collect(),
            hosts: metadata.hosts.keys().cloned().collect(),
            payloads: 0,
            warnings,
            problems: Vec::new(),
        }
    }

    /// Keeps an error as a problem, so that one does not hide the others.
    pub fn check<T>(&mut self, found: Result<T>) -> Option<T> {
        found.map_err(|error| self.problems.push(format!("{error:#}"))).ok()
    }
}

/// Does `work` and shows how far it is.
pub async fn shown(label: &str, payload: &Payload, work: impl AsyncFnOnce(&Progress) -> Result<()>) -> Result<()> {
    let (progress, mut shown) = (Progress::default(), Shown::new(label, payload.content_size));
    let mut work = std::pin::pin!(work(&progress));
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            done = &mut work => {
                shown.update(progress.snapshot().0);
                return done;
            }
            _ = tick.tick() => shown.update(progress.snapshot().0),
        }
    }
}
