//! Partitions of a plan: what each is for, and which bytes it has.

use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use crate::gpt::Entry;

/// A partition of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// What it is for.
    pub role: Role,
    /// Its entry in the table.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a partition is for. Its text form is `esp`, `root-a`, `root-verity-a`, `data-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// EFI system partition.
    Esp,
    /// Root file system of a slot.
    Root {
        /// `a` to `h`.
        slot: char,
    },
    /// Its hash tree.
    RootVerity {
        /// `a` to `h`.
        slot: char,
    },
    /// One of the layout's partitions behind the slots.
    Data {
        /// Which of them, counted from 1.
        number: u32,
        /// It is on the disk already, and its content stays.
        kept: bool,
    },
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp => write!(f, "esp"),
            Self::Root { slot } => write!(f, "root-{slot}"),
            Self::RootVerity { slot } => write!(f, "root-verity-{slot}"),
            Self::Data { number, .. } => write!(f, "data-{number}"),
        }
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Area {
    /// Those of a partition.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        Self { start: entry.start, size: entry.size }
    }

    /// Whether the other has some of these bytes.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.range().end && other.start < self.range().end
    }

    /// The bytes that both have; `None` where there are none.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.range().end.min(other.range().end));
        (start < end).then(|| Self { start, size: end - start })
    }

    /// What is left of it without the bytes of the other: those before them, and those behind.
    #[must_use]
    pub fn without(&self, other: &Self) -> Vec<Self> {
        let (mine, theirs) = (self.range(), other.range());
        let parts = [(mine.start, mine.end.min(theirs.start)), (mine.start.max(theirs.end), mine.end)];
        let parts = parts.into_iter().filter(|(start, end)| start < end);
        parts.map(|(start, end)| Self { start, size: end - start }).collect()
    }

    /// The bytes as a range.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.size)
    }
}
