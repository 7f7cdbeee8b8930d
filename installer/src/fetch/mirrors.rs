//! Several places with the same payloads: asked by turns, resumed one where another stopped, and dropped when they lie.
//!
//! # Design
//! A fetch begins at the mirror whose turn it is, so that concurrent ones spread over all. A mirror that fails rests, for
//! longer each time, and another one goes on at the next byte; when all rest, the fetch waits for the first that has
//! rested. Rests are shared between the fetches: what one has found out, the others need not find out again. Each fetch
//! has its own patience with each mirror ([`Limits::attempts`](crate::http::Limits)), so that it ends in any case.
//!
//! Where two mirrors have sent parts of one thing and it is wrong, nobody can tell which of them lied. Such a thing is
//! fetched again [apart](Mirrors::fetch_apart): all of it from one mirror, so that what is wrong then has one author.
//!
//! An answer with the whole file is never read up to a range in its middle: such a server is left at once, with
//! [`NoRanges`](super::NoRanges), for a mirror that has ranges or for the caller, who then asks for the whole file in one
//! stream. Only that stream, when it breaks, is resumed by reading what came already once more.

mod ahead;
mod course;
mod standing;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use metalstrap_release::site;
use tokio::sync::mpsc;

use super::{Fetching, Source};
use crate::report::Reporter;
use crate::waits::Waits;
use ahead::Ahead;
use course::Course;
use standing::Standing;

/// Where payloads come from: the repository and its mirrors, in turn.
#[derive(Debug)]
pub struct Mirrors {
    list: Arc<Vec<Mirror>>,
    ahead: Arc<Ahead>,
    turn: AtomicUsize,
    connections: u8,
    tell: Option<Reporter>,
}

#[derive(Debug)]
struct Mirror {
    source: Arc<dyn Source>,
    standing: Standing,
}

/// One of [`Mirrors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorId(pub(super) usize);

/// Bytes, and who sent them: not yet verified.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The bytes.
    pub bytes: Bytes,
    /// Whom to [drop](Mirrors::drop_liar) if they do not verify.
    pub from: MirrorId,
}

impl From<Arc<dyn Source>> for Mirrors {
    fn from(source: Arc<dyn Source>) -> Self {
        Self::new(vec![source])
    }
}

impl Mirrors {
    /// The repository and its mirrors, each with the same payloads below the same paths.
    #[must_use]
    pub fn new(list: Vec<Arc<dyn Source>>) -> Self {
        let list = list.into_iter().map(|source| Mirror { source, standing: Standing::default() }).collect();
        let (list, ahead, turn) = (Arc::new(list), Arc::default(), AtomicUsize::new(0));
        Self { list, ahead, turn, connections: site::CONNECTIONS, tell: None }
    }

    /// With another number of connections than is usual.
    #[must_use]
    pub fn with_connections(self, connections: u8) -> Self {
        Self { connections, ..self }
    }

    /// Which tell `tell` of each mirror that is dropped.
    #[must_use]
    pub fn telling(self, tell: &Reporter) -> Self {
        Self { tell: Some(tell.clone()), ..self }
    }

    /// How many fetches are worth having under way at once.
    #[must_use]
    pub fn connections(&self) -> u64 {
        u64::from(self.connections.max(1))
    }

    /// Sends bytes `range` of the file at `path` to `sink` in order and without gaps, beginning with the mirror whose turn
    /// it is. When one fails, the next one goes on at the next byte; each piece says who sent it. A closed `sink` ends it
    /// without error: who receives knows why it stopped.
    ///
    /// # Errors
    /// [`NoRanges`](super::NoRanges) (found by `downcast_ref`) when `range` begins beyond the file's start and the mirrors
    /// that could be asked send only whole files: fetch the whole file then, from byte 0. Otherwise, when no mirror is left
    /// to ask: each with its last error; [`Code::Corrupt`](crate::failure::Code) when all were dropped.
    pub fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Piece>) -> Fetching<'a> {
        self.send(path, range, None, sink)
    }

    /// The same, but what lies between two of `cuts` (in order) comes from one mirror. A mirror is kept on with until it is
    /// given up; the next one begins again at the last of `cuts` that was passed, or at the start of `range`. Who gets a piece
    /// from another mirror than the one before throws away what it has from there on.
    ///
    /// # Errors
    /// As [`Mirrors::fetch`].
    pub fn fetch_apart<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        cuts: &'a [u64],
        sink: mpsc::Sender<Piece>,
    ) -> Fetching<'a> {
        self.send(path, range, Some(cuts), sink)
    }

    fn send<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        cuts: Option<&'a [u64]>,
        sink: mpsc::Sender<Piece>,
    ) -> Fetching<'a> {
        let (first, waits) = (self.next_turn(), self.waits());
        Box::pin(async move {
            let mut begun = 0;
            // A piece that was fetched ahead knows nothing of cuts.
            if cuts.is_none()
                && let Some(came) = self.ahead.take(path, &range).await
            {
                let piece = came?;
                if self.is_left(piece.from) {
                    begun = u64::try_from(piece.bytes.len()).unwrap_or_default();
                    if sink.send(piece).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Course::new(path, range, cuts, sink, by_turns(&self.list, first)).after(begun).run(waits).await
        })
    }

    /// Begins to fetch these parts of files before anybody asks for them, in this order, over as many connections as others
    /// may use. Each byte serves once: whoever [fetches](Mirrors::fetch) it gets it without asking again, as from the mirror
    /// that sent it. What goes wrong is the error of who asks for just that part, and of nobody else.
    pub fn fetch_ahead(&self, wanted: Vec<(String, Range<u64>)>) {
        let connections = self.connections().min(u64::try_from(wanted.len()).unwrap_or(u64::MAX));
        wanted.iter().for_each(|(path, range)| self.ahead.expect(path, range));
        let wanted = Arc::new(Mutex::new(VecDeque::from(wanted)));
        for _ in 0..connections {
            let (wanted, list, ahead) = (Arc::clone(&wanted), Arc::clone(&self.list), Arc::clone(&self.ahead));
            let (first, waits) = (self.next_turn(), self.waits());
            tokio::spawn(async move {
                loop {
                    let next = wanted.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((path, range)) = next else { break };
                    let (sink, pieces) = mpsc::channel(course::RELAY);
                    let course = Course::new(&path, range.clone(), None, sink, by_turns(&list, first));
                    let (fetched, gathered) = tokio::join!(course.quietly().run(waits.clone()), ahead::gather(pieces));
                    ahead.settle(&path, &range, fetched.map(|()| gathered));
                }
            });
        }
    }

    /// The mirror that the next fetch begins at.
    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(self.list.len()).unwrap_or_default()
    }

    fn waits(&self) -> Waits {
        self.tell.as_ref().map(Reporter::waits).unwrap_or_default()
    }

    fn is_left(&self, id: MirrorId) -> bool {
        self.list.get(id.0).is_some_and(|mirror| mirror.standing.dropped().is_none())
    }

    /// Drops a mirror for the rest of the run, because what it sent did not verify: `what` is what the report says about
    /// it. False if none is left: then the run fails with [`Code::Corrupt`](crate::failure::Code).
    pub fn drop_liar(&self, from: MirrorId, what: &str) -> bool {
        if let Some(mirror) = self.list.get(from.0)
            && mirror.standing.drop_for(what)
        {
            let name = mirror.source.describe();
            match &self.tell {
                Some(tell) => tell.drops(&name, what),
                None => log::warn!("mirror {name} is dropped: {what}"),
            }
        }
        self.left().next().is_some()
    }

    /// The mirrors dropped so far, each with the reason, for the report.
    #[must_use]
    pub fn dropped(&self) -> Vec<(String, String)> {
        let reason = |mirror: &Mirror| Some((mirror.source.describe(), mirror.standing.dropped()?));
        self.list.iter().filter_map(reason).collect()
    }

    /// The first of those that are left.
    #[must_use]
    pub fn first(&self) -> MirrorId {
        MirrorId(self.list.iter().position(|mirror| mirror.standing.dropped().is_none()).unwrap_or_default())
    }

    /// A mirror as a person would name it.
    #[must_use]
    pub fn describe(&self, from: MirrorId) -> String {
        self.list.get(from.0).map(|mirror| mirror.source.describe()).unwrap_or_default()
    }

    /// Whether parts of the file at `path` can be asked for: false when all mirrors that are left are known to send only
    /// the whole of it.
    #[must_use]
    pub fn ranged(&self, path: &str) -> bool {
        self.left().any(|mirror| !mirror.standing.is_unranged(path))
    }

    fn left(&self) -> impl Iterator<Item = &Mirror> {
        self.list.iter().filter(|mirror| mirror.standing.dropped().is_none())
    }
}

/// All mirrors once, from number `first` on.
fn by_turns(list: &[Mirror], first: usize) -> impl Iterator<Item = (MirrorId, &Mirror)> {
    let by_turns = list.iter().enumerate().cycle().skip(first).take(list.len());
    by_turns.map(|(id, mirror)| (MirrorId(id), mirror))
}
