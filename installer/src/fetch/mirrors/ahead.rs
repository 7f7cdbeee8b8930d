//! Parts of files that are fetched before they are asked for, so that small things that are needed one after the other cost one
//! round trip together.
//!
//! Nothing here is checked: who takes a piece checks it as any other that a mirror sent, and each byte serves once, so that
//! what was wrong is asked for again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};

use super::{MirrorId, Piece};

/// The parts, on their way or there.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    parts: Mutex<Vec<Part>>,
    changed: Notify,
}

#[derive(Debug)]
struct Part {
    path: String,
    range: Range<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    Coming,
    Came(Bytes, MirrorId),
    Failed(anyhow::Error),
}

impl Ahead {
    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This part is on its way: who asks for it waits until it is [settled](Ahead::settle).
    pub fn expect(&self, path: &str, range: &Range<u64>) {
        self.parts().push(Part { path: path.to_owned(), range: range.clone(), state: State::Coming });
    }

    /// What became of a part that was expected.
    pub fn settle(&self, path: &str, range: &Range<u64>, came: Result<Option<(Bytes, MirrorId)>>) {
        let mut parts = self.parts();
        let is_it = |part: &Part| part.path == path && part.range == *range && matches!(part.state, State::Coming);
        let part = parts.iter().position(is_it).map(|at| parts.swap_remove(at));
        let state = match came {
            Ok(came) => came.map(|(bytes, from)| State::Came(bytes, from)),
            Err(error) => Some(State::Failed(error)),
        };
        parts.extend(part.zip(state).map(|(part, state)| Part { state, ..part }));
        drop(parts);
        self.changed.notify_waiters();
    }

    /// Takes out what is there from the start of `range` on, not beyond its end, when it has come; the error where just this
    /// range has failed. `None`: it is to be fetched.
    pub async fn take(&self, path: &str, range: &Range<u64>) -> Option<Result<Piece>> {
        loop {
            let changed = self.changed.notified();
            {
                let mut parts = self.parts();
                let at = parts.iter().position(|part| part.path == path && part.range.contains(&range.start))?;
                if parts.get(at).is_some_and(|part| !matches!(part.state, State::Coming)) {
                    let (taken, rest) = parts.swap_remove(at).cut(range);
                    parts.extend(rest);
                    return taken;
                }
            }
            changed.await;
        }
    }
}

impl Part {
    /// What it has of `range`, and what is left of it.
    fn cut(self, range: &Range<u64>) -> (Option<Result<Piece>>, Vec<Self>) {
        let (mut behind, from) = match self.state {
            State::Came(bytes, from) => (bytes, from),
            State::Failed(error) if self.range == *range => return (Some(Err(error)), Vec::new()),
            State::Failed(_) | State::Coming => return (None, Vec::new()),
        };
        let mut split = |bytes: u64| behind.split_to(usize::try_from(bytes).unwrap_or(usize::MAX).min(behind.len()));
        let before = split(range.start.saturating_sub(self.range.start));
        let bytes = split(range.end.saturating_sub(range.start));
        let next = range.start.saturating_add(u64::try_from(bytes.len()).unwrap_or_default());
        let rest = [(self.range.start..range.start, before), (next..self.range.end, behind)];
        let rest = rest.into_iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(range, bytes)| {
            let (path, state) = (self.path.clone(), State::Came(bytes, from));
            Self { path, range, state }
        });
        let rest = rest.collect();
        ((!bytes.is_empty()).then_some(Ok(Piece { bytes, from })), rest)
    }
}

/// What comes, as far as one mirror has sent it: so each byte has one author.
pub(super) async fn gather(mut pieces: mpsc::Receiver<Piece>) -> Option<(Bytes, MirrorId)> {
    let first = pieces.recv().await?;
    let (mut bytes, mut alone) = (BytesMut::from(first.bytes.as_ref()), true);
    while let Some(piece) = pieces.recv().await {
        alone = alone && piece.from == first.from;
        if alone {
            bytes.extend_from_slice(&piece.bytes);
        }
    }
    Some((bytes.freeze(), first.from))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use anyhow::anyhow;

    use super::*;

    async fn taken(ahead: &Ahead, range: Range<u64>) -> Option<Vec<u8>> {
        Some(ahead.take("a", &range).await?.unwrap().bytes.to_vec())
    }

    #[tokio::test]
    async fn each_byte_serves_once_and_from_any_place() {
        let ahead = Ahead::default();
        ahead.expect("a", &(10..20));
        let mut early = pin!(taken(&ahead, 16..30));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(early.as_mut().poll(&mut context), Poll::Pending, "it is on its way");
        let bytes: Vec<u8> = (10..20).collect();
        ahead.settle("a", &(10..20), Ok(Some((bytes.into(), MirrorId(1)))));
        assert_eq!(early.await.unwrap(), [16, 17, 18, 19]);
        assert_eq!(taken(&ahead, 9..12).await, None);
        assert_eq!(taken(&ahead, 12..14).await.unwrap(), [12, 13]);
        assert_eq!(taken(&ahead, 12..14).await, None, "it was wrong, and is asked for again");
        assert_eq!(taken(&ahead, 10..20).await.unwrap(), [10, 11]);
        assert_eq!(taken(&ahead, 14..15).await.unwrap(), [14]);
        assert_eq!(taken(&ahead, 15..20).await.unwrap(), [15]);
        assert!(ahead.parts().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_the_error_of_who_asks_for_just_that() {
        let ahead = Ahead::default();
        let fail = || {
            ahead.expect("a", &(10..20));
            ahead.settle("a", &(10..20), Err(anyhow!("lost")));
        };
        fail();
        assert_eq!(ahead.take("a", &(10..20)).await.unwrap().unwrap_err().to_string(), "lost");
        assert!(ahead.take("a", &(10..20)).await.is_none(), "once");
        fail();
        assert!(ahead.take("a", &(10..15)).await.is_none());
        assert!(ahead.take("a", &(10..20)).await.is_none());
    }
}
