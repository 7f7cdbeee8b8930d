//! What all fetches of a run have found out about one mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::trouble::code_of_fetch;
use super::super::{NoRanges, Unranged};
use crate::failure::{Code, coded};
use crate::http::{Limits, pause};

#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Why nothing of it is believed any more.
    dropped: Option<String>,
    /// When it may be asked again.
    rested: Option<Instant>,
    /// Until when it asked to be left alone itself.
    asked: Option<Instant>,
    /// Failures in a row, those during one rest counted once: a server that stops fails every connection it has.
    failures: u32,
    /// Files that it does not have, or not as they should be, and why.
    refused: BTreeMap<String, (Code, String)>,
    /// Files that it sends only as a whole.
    unranged: BTreeSet<String>,
}

/// Whether to ask a mirror.
#[derive(Debug)]
pub(super) enum Ready {
    Now,
    At(Instant),
    Never(anyhow::Error),
}

impl Standing {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be asked for the file at `path`.
    pub fn ready(&self, path: &str, unranged: Unranged) -> Ready {
        let known = self.known();
        if let Some(what) = &known.dropped {
            return Ready::Never(coded(Code::Corrupt, format!("dropped: {what}")));
        }
        if let Some((code, text)) = known.refused.get(path) {
            return Ready::Never(coded(*code, text.clone()));
        }
        if unranged == Unranged::Refused && known.unranged.contains(path) {
            return Ready::Never(NoRanges.into());
        }
        match known.rested {
            Some(when) if when > Instant::now() => Ready::At(when),
            _ => Ready::Now,
        }
    }

    /// It sent what was asked for, or much of it. A rest that it asked for itself stays.
    pub fn succeed(&self) {
        let mut known = self.known();
        (known.failures, known.rested) = (0, known.asked);
    }

    /// It failed, and gets a rest: at least as long as it `asked` for, within the limits.
    pub fn fail(&self, limits: &Limits, asked: Option<Duration>) {
        let mut known = self.known();
        let now = Instant::now();
        if known.rested.is_none_or(|when| when <= now) {
            known.failures = known.failures.saturating_add(1);
        }
        let until = now.checked_add(pause(limits, asked, known.failures));
        known.rested = known.rested.max(until);
        if asked.is_some() {
            known.asked = known.asked.max(until);
        }
    }

    /// It will not send the file at `path` in this run.
    pub fn refuse(&self, path: &str, error: &anyhow::Error) {
        let mut known = self.known();
        if error.is::<NoRanges>() {
            known.unranged.insert(path.to_owned());
        } else {
            known.refused.insert(path.to_owned(), (code_of_fetch(error), format!("{error:#}")));
        }
    }

    /// Drops it; false: it was dropped before, for the reason that stays.
    pub fn drop_for(&self, what: &str) -> bool {
        let mut known = self.known();
        let first = known.dropped.is_none();
        known.dropped.get_or_insert_with(|| what.to_owned());
        first
    }

    /// Why it was dropped.
    pub fn dropped(&self) -> Option<String> {
        self.known().dropped.clone()
    }

    /// Whether it is known to send the file at `path` only as a whole.
    pub fn is_unranged(&self, path: &str) -> bool {
        self.known().unranged.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rest_that_was_asked_for_outlasts_the_success_of_others() {
        let (limits, standing) = (Limits::default(), Standing::default());
        let is_ready = || matches!(standing.ready("a", Unranged::Skipped), Ready::Now);
        standing.fail(&limits, None);
        assert!(!is_ready());
        standing.succeed();
        assert!(is_ready(), "its own rest ends");
        standing.fail(&limits, Some(Duration::from_secs(60)));
        standing.succeed();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!is_ready());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(is_ready());
    }
}
