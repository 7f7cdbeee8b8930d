//! Partitions behind the slots, described as systemd-repart's definitions describe them (repart.d(5)).

use serde::{Deserialize, Serialize};

use super::check::shown;
use super::partition_type::PartitionType;
use super::{EMPTY_LABEL, ESP_LABEL, MAX_BYTES};
use crate::document::{DocumentError, Kind};

/// Sizes are multiples of this, whatever the sector size (repart.d(5), `SizeMinBytes=`).
pub const GRAIN: u64 = 4096;
/// No partition and no padding has more bytes (8 PiB): a JSON number holds them exactly, and sums stay far from overflow.
pub const MAX_PARTITION_BYTES: u64 = 1 << 53;
/// No weight is larger (repart.d(5), `Weight=`).
const MAX_WEIGHT: u32 = 1_000_000;
/// No layout has more partitions behind the slots.
const MAX_PARTITIONS: usize = 16;
/// UTF-16 units of a partition's name in a GPT (UEFI specification 2.10, table 5.6).
const MAX_LABEL: usize = 36;

/// A partition behind the slots. Sizes are in bytes, multiples of 4096; what sizes and weights mean is repart.d(5)'s. The
/// installer makes no file system in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DataPartition {
    /// Type: `home`, `linux-generic`, `srv`, `swap`, `tmp`, `user-home`, `var`, `xbootldr`, or a GUID.
    #[serde(rename = "type")]
    pub kind: PartitionType,
    /// Label (`PARTLABEL`): 1 to 36 UTF-16 units; no two partitions have the same.
    pub label: String,
    /// Least size [default: 10 MiB].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_min: Option<u64>,
    /// Largest size [default: none].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_max: Option<u64>,
    /// Its part of the space, against all weights: 0 to 1000000.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Least space that stays free behind it.
    #[serde(default)]
    pub padding_min: u64,
    /// Largest space that stays free behind it [default: none].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding_max: Option<u64>,
    /// The part of the space that stays free behind it, against all weights: 0 to 1000000.
    #[serde(default)]
    pub padding_weight: u32,
    /// That its content is to outlive other releases: with `existing: keep` of the host config that of every partition does, with
    /// `wipe` none.
    #[serde(default)]
    pub keep: bool,
}

fn default_weight() -> u32 {
    1000
}

impl DataPartition {
    /// What is wrong with it, if anything is.
    fn problem(&self) -> Option<String> {
        let label = shown(&self.label);
        let units = self.label.encode_utf16().count();
        if !(1..=MAX_LABEL).contains(&units) || self.label.chars().any(char::is_control) {
            return Some(format!(
                "has a partition whose label {label} is not 1 to {MAX_LABEL} UTF-16 units without control characters"
            ));
        }
        if self.kind.is_reserved() {
            return Some(format!("has a partition {label} of type {}, which it may not have", self.kind));
        }
        self.size_problem().map(|problem| format!("has a partition {label} whose {problem}"))
    }

    fn size_problem(&self) -> Option<String> {
        for (field, size, least) in [
            ("size_min", self.size_min, GRAIN),
            ("size_max", self.size_max, GRAIN),
            ("padding_min", Some(self.padding_min), 0),
            ("padding_max", self.padding_max, 0),
        ] {
            let fits = |size: &u64| size.is_multiple_of(GRAIN) && (least..=MAX_PARTITION_BYTES).contains(size);
            if let Some(size) = size.filter(|size| !fits(size)) {
                return Some(format!(
                    "{field} is {size}, not a multiple of {GRAIN} from {least} to {MAX_PARTITION_BYTES}"
                ));
            }
        }
        for (field, least, most) in
            [("size", self.size_min, self.size_max), ("padding", Some(self.padding_min), self.padding_max)]
        {
            if let (Some(least), Some(most)) = (least, most)
                && least > most
            {
                return Some(format!("{field}_min {least} is larger than its {field}_max {most}"));
            }
        }
        let weights = [("weight", self.weight), ("padding_weight", self.padding_weight)];
        let (field, weight) = weights.into_iter().find(|(_, weight)| *weight > MAX_WEIGHT)?;
        Some(format!("{field} is {weight}, not 0 to {MAX_WEIGHT}"))
    }
}

/// Parses the partitions of a layout as an operator writes them: a JSON list. Whether their labels are free in a release is
/// for its manifest to check.
///
/// # Errors
/// Names the partition and what is wrong with it.
pub fn parse_partitions(bytes: &[u8]) -> Result<Vec<DataPartition>, DocumentError> {
    let kind = Kind { name: "layout", max_bytes: MAX_BYTES };
    let partitions: Vec<DataPartition> = kind.parse(bytes)?;
    check(kind, "list of partitions", &partitions, &[])?;
    Ok(partitions)
}

/// Checks the partitions of `kind`'s `field`. `taken` are labels that the slots have.
pub(super) fn check(
    kind: Kind,
    field: &'static str,
    partitions: &[DataPartition],
    taken: &[String],
) -> Result<(), DocumentError> {
    if partitions.len() > MAX_PARTITIONS {
        return kind.refuse(field, format!("has {} entries, more than the {MAX_PARTITIONS} allowed", partitions.len()));
    }
    let mut labels: Vec<&str> = taken.iter().map(String::as_str).chain([ESP_LABEL, EMPTY_LABEL]).collect();
    for partition in partitions {
        if let Some(problem) = partition.problem() {
            return kind.refuse(field, problem);
        }
        if labels.contains(&partition.label.as_str()) {
            return kind.refuse(field, format!("has another partition with the label {}", shown(&partition.label)));
        }
        labels.push(&partition.label);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
