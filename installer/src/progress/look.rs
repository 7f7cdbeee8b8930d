//! What a step looks at before there is anything to be done: reading and hashing that may find nothing of use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LooksAt {
    /// The place itself: what is right stays.
    InPlace,
    /// What is right in its place and wanted once more elsewhere.
    Repeats,
    /// Other parts of the disk.
    Seeds,
}

impl LooksAt {
    /// The name in events (`docs/events.md`).
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::InPlace => "in-place",
            Self::Repeats => "repeats",
            Self::Seeds => "seeds",
        }
    }

    /// What a person reads: short, because a rate and the time left follow on a line of 79 columns.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::InPlace => "Looking at what is there",
            Self::Repeats => "Looking for what repeats",
            Self::Seeds => "Looking at other slots",
        }
    }
}

/// How far a look is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// At what.
    pub at: LooksAt,
    /// Which one of the step's looks it is.
    pub number: u64,
    /// Bytes looked at.
    pub done: u64,
    /// Bytes to look at.
    pub total: u64,
}

/// Counters of all looks of a step.
#[derive(Debug, Default)]
pub(super) struct Looks {
    looked: AtomicU64,
    /// The look that is under way; its `done` is where the counter stood at its start.
    present: Mutex<Option<Look>>,
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Looks {
    pub(super) fn begin(&self, at: LooksAt, total: u64) {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let look = Look { at, number, done: self.looked(), total };
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.looked.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        if self.present.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many looks began and ended, in sum.
    pub(super) fn turns(&self) -> u64 {
        self.begun.load(Ordering::Relaxed).saturating_add(self.ended.load(Ordering::Relaxed))
    }

    /// Bytes looked at in all.
    pub(super) fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    pub(super) fn present(&self) -> Option<Look> {
        let look = (*self.present.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(Look { done: self.looked().saturating_sub(look.done), ..look })
    }
}
