//! One fetch on its way from mirror to mirror.

use std::ops::Range;
use std::pin::pin;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::trouble::{Patience, code_of_fetch, fetching, sleep_until};
use super::super::{Again, NoRanges, Trouble, Unranged};
use super::standing::Ready;
use super::{Mirror, MirrorId, Piece};
use crate::failure::{Code, WithCode as _, coded};
use crate::http::TooSlow;
use crate::waits::Waits;

/// Pieces between a source and those who count or gather them. Both are one task: there is nothing to smooth.
pub(super) const RELAY: usize = 2;

/// A fetch and the mirrors it may ask, in the order of their turns.
pub(super) struct Course<'a> {
    stream: Stream<'a>,
    tries: Vec<Try<'a>>,
    /// Where another mirror may go on; `None`: at any byte.
    cuts: Option<&'a [u64]>,
    start: u64,
    /// The one that was asked last.
    present: Option<usize>,
}

/// What is left to fetch, and for whom.
struct Stream<'a> {
    path: &'a str,
    next: u64,
    end: u64,
    unranged: Unranged,
    sink: mpsc::Sender<Piece>,
    /// What a mirror refuses here says nothing to others.
    quiet: bool,
}

/// What this fetch has had of one mirror.
struct Try<'a> {
    id: MirrorId,
    mirror: &'a Mirror,
    patience: Patience,
    /// Why it is not asked any more.
    over: Option<anyhow::Error>,
}

/// What the passing on of pieces came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// All that the source has sent is passed on.
    All,
    /// Who receives has hung up.
    HungUp,
    /// The mirror was dropped: nothing more of it is wanted.
    Dropped,
}

impl<'a> Course<'a> {
    pub fn new(
        path: &'a str,
        range: Range<u64>,
        cuts: Option<&'a [u64]>,
        sink: mpsc::Sender<Piece>,
        by_turns: impl Iterator<Item = (MirrorId, &'a Mirror)>,
    ) -> Self {
        let unranged = if range.start == 0 { Unranged::Skipped } else { Unranged::Refused };
        let tries = by_turns.map(|(id, mirror)| {
            let patience = Patience::new(mirror.source.limits());
            Try { id, mirror, patience, over: None }
        });
        let stream = Stream { path, next: range.start, end: range.end, unranged, sink, quiet: false };
        Self { tries: tries.collect(), stream, cuts, start: range.start, present: None }
    }

    /// The same where so many bytes at the start of the range are there already.
    pub fn after(mut self, begun: u64) -> Self {
        self.stream.next = self.stream.next.saturating_add(begun);
        self
    }

    /// The same for more of a file than anybody may need: who asks for a part of it finds out himself what is refused, and why.
    pub fn quietly(mut self) -> Self {
        self.stream.quiet = true;
        self
    }

    /// Fetches.
    ///
    /// # Errors
    /// When no mirror is left to ask.
    pub async fn run(mut self, waits: Waits) -> Result<()> {
        while self.stream.next < self.stream.end {
            let chosen = self.choose(&waits).await?;
            self.turn_to(chosen);
            let tried = self.tries.get_mut(chosen).context("choosing a mirror")?;
            if tried.go(&mut self.stream).await {
                break;
            }
        }
        Ok(())
    }

    /// The mirror that a fetch with cuts keeps on with.
    fn kept_on_with(&self) -> Option<usize> {
        let present = self.present.filter(|_| self.cuts.is_some())?;
        self.tries.get(present).is_some_and(|tried| tried.over.is_none()).then_some(present)
    }

    /// With cuts, another mirror than the last one begins again at the last of them that was passed.
    fn turn_to(&mut self, chosen: usize) {
        if let Some(cuts) = self.cuts.filter(|_| self.present != Some(chosen)) {
            let passed = cuts.partition_point(|cut| *cut <= self.stream.next);
            let last = cuts.get(..passed).and_then(<[u64]>::last).copied();
            self.stream.next = last.unwrap_or(self.start).max(self.start);
        }
        self.present = Some(chosen);
    }

    /// The mirror to ask next: the one that is kept on with, else the first one that does not rest, else the one that has
    /// rested first.
    async fn choose(&mut self, waits: &Waits) -> Result<usize> {
        loop {
            let only = self.kept_on_with();
            let mut soonest: Option<(Instant, &Mirror)> = None;
            for (place, tried) in self.tries.iter_mut().enumerate() {
                if tried.over.is_some() || only.is_some_and(|only| only != place) {
                    continue;
                }
                match tried.mirror.standing.ready(self.stream.path, self.stream.unranged) {
                    Ready::Now => return Ok(place),
                    Ready::At(when) if soonest.is_none_or(|(other, _)| when < other) => {
                        soonest = Some((when, tried.mirror));
                    }
                    Ready::At(_) => {}
                    Ready::Never(error) => tried.over = Some(error),
                }
            }
            match soonest {
                Some((when, mirror)) => sleep_until(when, &mirror.source.describe(), waits).await,
                // The one that was kept on with is over: the others are looked at.
                None if only.is_some() => {}
                None => return self.give_up(),
            }
        }
    }

    /// Says why no mirror is left.
    fn give_up<T>(&mut self) -> Result<T> {
        let path = self.stream.path;
        let over = self.tries.iter_mut().filter_map(|tried| Some((tried.mirror.source.describe(), tried.over.take()?)));
        let mut over: Vec<(String, anyhow::Error)> = over.collect();
        let unranged = over.iter().any(|(_, error)| error.is::<NoRanges>());
        if over.len() == 1
            && let Some((mirror, error)) = over.pop()
        {
            return fetching(Err(error), format_args!("{mirror}/{path}"));
        }
        if unranged {
            return fetching(Err(NoRanges.into()), path);
        }
        let first = over.first().map(|(_, error)| code_of_fetch(error));
        let code = first.filter(|first| over.iter().all(|(_, error)| code_of_fetch(error) == *first));
        over.sort_by(|(one, _), (other, _)| one.cmp(other));
        let texts: Vec<String> = over.iter().map(|(mirror, error)| format!("{mirror}: {error:#}")).collect();
        let text = if texts.is_empty() { "there is no mirror".to_owned() } else { texts.join("; ") };
        if over.iter().any(|(_, error)| error.is::<TooSlow>()) {
            return Err(TooSlow(text)).code(code.unwrap_or(Code::Repository), || format!("fetching {path}"));
        }
        Err(coded(code.unwrap_or(Code::Repository), format!("fetching {path}: {text}")))
    }
}

impl Try<'_> {
    /// Lets the mirror send until it fails or all is there. True: there is no use in going on.
    async fn go(&mut self, stream: &mut Stream<'_>) -> bool {
        let before = stream.next;
        let tried = self.send(stream).await;
        let missing = stream.end.saturating_sub(stream.next);
        let trouble = match tried {
            Ok(Passed::HungUp) => return true,
            Ok(Passed::Dropped) => return false,
            Ok(Passed::All) if missing == 0 => {
                self.mirror.standing.succeed();
                return true;
            }
            Ok(Passed::All) => anyhow!("it ends {missing} bytes too early").into(),
            Err(trouble) => trouble,
        };
        self.fail(trouble, stream, stream.next.saturating_sub(before));
        false
    }

    /// Takes a failure to its consequences: for this fetch and for all others.
    fn fail(&mut self, trouble: Trouble, stream: &Stream<'_>, brought: u64) {
        let (standing, limits) = (&self.mirror.standing, self.mirror.source.limits());
        self.patience.credit(brought);
        if brought >= limits.attempt_bytes {
            standing.succeed();
        }
        match trouble.again {
            Again::Never if stream.quiet && !trouble.error.is::<NoRanges>() => {}
            Again::Never => standing.refuse(stream.path, &trouble.error),
            Again::Later(asked) => standing.fail(&limits, asked),
        }
        log::warn!("{}/{}: {:#}", self.mirror.source.describe(), stream.path, trouble.error);
        self.over = self.patience.spend(trouble).err();
    }

    /// One attempt, piece by piece.
    async fn send(&self, stream: &mut Stream<'_>) -> Result<Passed, Trouble> {
        let (sink, chunks) = mpsc::channel(RELAY);
        let source = &self.mirror.source;
        let mut sending = source.attempt(stream.path, stream.next..stream.end, stream.unranged, sink);
        let mut passing = pin!(self.pass_on(chunks, stream));
        let sent = tokio::select! {
            sent = &mut sending => sent,
            passed = &mut passing => {
                return if passed == Passed::All { sending.await.map(|()| passed) } else { Ok(passed) };
            }
        };
        drop(sending);
        let passed = passing.await;
        if passed == Passed::All { sent.map(|()| passed) } else { Ok(passed) }
    }

    /// Passes on what the source sends, and counts it: whatever a source does, no byte comes twice and none too many.
    async fn pass_on(&self, mut chunks: mpsc::Receiver<Bytes>, stream: &mut Stream<'_>) -> Passed {
        while let Some(mut bytes) = chunks.recv().await {
            if self.mirror.standing.dropped().is_some() {
                return Passed::Dropped;
            }
            let room = stream.end.saturating_sub(stream.next);
            bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if stream.sink.send(Piece { bytes, from: self.id }).await.is_err() {
                return Passed::HungUp;
            }
            stream.next = stream.next.saturating_add(length);
        }
        Passed::All
    }
}
