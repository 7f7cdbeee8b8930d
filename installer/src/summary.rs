//! The last events of a run, and the bounded wait until they are acknowledged.

use std::time::Duration;

use metalstrap_release::manifest::Manifest;
use serde_json::{Map, Value};

use crate::attestation;
use crate::bootvars::BootEntry;
use crate::converge::Tally;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::meminfo;
use crate::report::{Reporter, fields};
use crate::stages::Bootable;
use crate::tpm;
use crate::watermark::Watermark;

/// The longest that a machine waits for its last events to be taken (design: at most 60 s).
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(60);

/// What the last event of a good run says.
#[derive(Debug)]
pub struct Summary {
    release: String,
    root_hash: String,
    uki_path: String,
    tally: Tally,
    image_bytes: u64,
    /// The firmware's entry, where one was made.
    pub boot_entry: Option<BootEntry>,
    /// What the TPM says of itself, where it was asked.
    pub attestation: Option<Value>,
}

impl Summary {
    /// What is known once the disk boots.
    #[must_use]
    pub fn new(manifest: &Manifest, bootable: &Bootable) -> Self {
        let root = manifest.filesystems.first();
        Self {
            release: manifest.root_label(),
            root_hash: root.map(|root| root.root_hash.to_string()).unwrap_or_default(),
            uki_path: bootable.esp.uki_path.clone(),
            tally: bootable.tally(),
            image_bytes: root.map_or(0, |root| root.data.content_size),
            boot_entry: None,
            attestation: None,
        }
    }

    /// Tells the last event and waits until a server has taken it; a machine that cannot report goes on all the same.
    pub async fn finish(self, ending: &Ending, machine: &Machine<'_>, memory: &Watermark, tell: &Reporter) {
        let mut details = fields([
            ("release", self.release.into()),
            ("root_hash", self.root_hash.into()),
            ("uki", self.uki_path.into()),
            ("payload_fetched_bytes", self.tally.fetched_bytes.into()),
            ("blocks", self.tally.to_json()),
            ("mirrors_dropped", tell.mirrors_dropped().into()),
            ("image_bytes", self.image_bytes.into()),
            ("lowest_mem_available_bytes", memory.lowest().into()),
            ("peak_rss_bytes", meminfo::peak_rss().ok().into()),
            ("events_dropped", tell.outbox().dropped().into()),
            ("event_log", machine.event_log().into()),
        ]);
        if machine.is_netboot() {
            details.insert("handoff".into(), serde_json::to_value(ending).unwrap_or_default());
            details.insert("tpm_seconds".into(), tpm::spent::so_far().as_secs_f64().into());
        }
        if let Some(entry) = &self.boot_entry {
            details.insert("boot_entry".into(), serde_json::to_value(entry).unwrap_or_default());
        }
        let mut posted = [Map::new(), Map::new()];
        if let Some(attestation) = self.attestation {
            details.insert("attestation".into(), attestation);
            posted = attestation::posted(attestation::firmware_log());
        }
        tell.tell_and_post("run", "finished", details, posted);
        settle(tell).await;
    }
}

/// Tells the failure as the run's last event and waits until a server has taken it.
pub async fn report_failure(failure: &Failure, tell: &Reporter) {
    let mut details = failure_fields(failure);
    details.insert("mirrors_dropped".into(), tell.mirrors_dropped().into());
    tell.tell("run", "failed", details);
    settle(tell).await;
}

/// A failure as the fields of an event.
#[must_use]
pub fn failure_fields(failure: &Failure) -> Map<String, Value> {
    match serde_json::to_value(failure) {
        Ok(Value::Object(details)) => details,
        _ => Map::new(),
    }
}

/// Where nothing is served (no report URL, or no network yet) there is nobody to wait for.
async fn settle(tell: &Reporter) {
    if !tell.outbox().is_served() {
        return;
    }
    if let Err(error) = tell.outbox().settle(ACKNOWLEDGEMENT).await {
        tell.say(&format!("warning: reporting: {error:#}"));
    }
}
