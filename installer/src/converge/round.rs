//! One round of fetching: the frames that are needed, over several connections, into the hands of the threads that decode
//! and write them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, mpsc};

use super::blocks::BlockSet;
use super::connection::{self, Batch};
use super::goal::Goal;
use super::needed::Needed;
use super::output::Output;
use super::sweep::{PIECE, threads};
use super::worker;
use crate::disk::BufferPool;
use metalstrap_release::verity::BLOCK;

/// Bytes of one request at most and at least, and how many requests a connection should still get, so that all end
/// together. Eight connections ask for 3.5 MiB at most, so that what they have asked for is half of what a cut may cost.
const MOST: u64 = 8 << 20;
const LEAST: u64 = 256 << 10;
const ROUNDS: u64 = 3;
/// Memory for content that waits to be written, beside what each thread is at.
const MEMORY: u64 = 12 << 20;
/// Threads that decode, at most: each has a frame, its content and what zstd needs, some 3 MB. More would bring content faster
/// than drives take it.
const MOST_DECODERS: usize = 12;
/// Batches that wait for a thread.
const WAITING: usize = 4;

/// How many threads decode.
fn decoders() -> usize {
    threads().min(MOST_DECODERS)
}

/// What is left to be fetched.
#[derive(Debug)]
struct Queue {
    /// Frames in a row.
    spans: VecDeque<Range<u64>>,
    /// Spans that a connection has.
    taken: u64,
    /// Connections that have not given up.
    serving: u64,
    /// Those that have.
    given_up: u64,
}

/// What connections and threads of a round share.
#[derive(Debug)]
pub(super) struct Round {
    pub goal: Goal,
    /// The blocks that are in their place or on their way to it.
    pub have: Arc<BlockSet>,
    pub needed: Needed,
    pub output: Arc<Output>,
    pub pool: BufferPool,
    /// Blocks that were written as copies of others.
    pub copied: AtomicU64,
    queue: Mutex<Queue>,
    /// A span is done, or was given back.
    changed: Notify,
    left: AtomicU64,
    failed: AtomicBool,
    failure: Notify,
}

impl Round {
    /// A round for `needed` frames of the goal's payload, of which the largest has `largest` bytes of content.
    pub fn new(goal: &Goal, have: &Arc<BlockSet>, needed: Needed, largest: u64, output: &Arc<Output>) -> Result<Self> {
        let capacity = largest.max(PIECE.saturating_mul(BLOCK));
        let count = usize::try_from(MEMORY / capacity)?.saturating_add(decoders());
        let spans = needed.frames.present(needed.frames.range()).collect();
        Ok(Self {
            goal: goal.clone(),
            have: Arc::clone(have),
            left: AtomicU64::new(needed.bytes),
            needed,
            output: Arc::clone(output),
            pool: BufferPool::new(count, usize::try_from(capacity)?),
            copied: AtomicU64::new(0),
            queue: Mutex::new(Queue { spans, taken: 0, serving: 0, given_up: 0 }),
            changed: Notify::new(),
            failed: AtomicBool::new(false),
            failure: Notify::new(),
        })
    }

    fn connections(&self) -> u64 {
        self.goal.frames.mirrors.connections()
    }

    /// The next frames for a connection, in a row; `size` says how many bytes a frame has. Waits while others have spans
    /// that they may give back; `None` when there is nothing left to be done.
    pub async fn take(&self, size: impl Fn(u64) -> u64) -> Option<Range<u64>> {
        loop {
            let changed = self.changed.notified();
            if self.failed.load(Ordering::Relaxed) {
                return None;
            }
            {
                let mut queue = self.queue();
                if let Some(span) = self.cut(&mut queue, &size) {
                    queue.taken += 1;
                    return Some(span);
                }
                if queue.taken == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// So much of the first span that all connections get several turns.
    fn cut(&self, queue: &mut Queue, size: &impl Fn(u64) -> u64) -> Option<Range<u64>> {
        let shares = ROUNDS.saturating_mul(self.connections());
        let most = self.output.budget.request(self.connections()).clamp(LEAST, MOST);
        let most = self.left.load(Ordering::Relaxed).checked_div(shares).unwrap_or(MOST).clamp(LEAST, most);
        let run = queue.spans.pop_front()?;
        let (mut end, mut bytes) = (run.start, 0_u64);
        while end < run.end && (end == run.start || bytes.saturating_add(size(end)) <= most) {
            bytes = bytes.saturating_add(size(end));
            end += 1;
        }
        if end < run.end {
            queue.spans.push_front(end..run.end);
        }
        self.left.fetch_sub(bytes.min(self.left.load(Ordering::Relaxed)), Ordering::Relaxed);
        Some(run.start..end)
    }

    /// A connection begins to serve.
    pub fn begin(&self) {
        self.queue().serving += 1;
    }

    /// A span is done.
    pub fn done(&self) {
        let mut queue = self.queue();
        queue.taken = queue.taken.saturating_sub(1);
        drop(queue);
        self.changed.notify_waiters();
    }

    /// A connection cannot go on: the others do what it leaves, in `spans`. False if there is no other.
    pub fn give_up(&self, spans: Vec<Range<u64>>) -> bool {
        let others = {
            let mut queue = self.queue();
            (queue.serving, queue.given_up) = (queue.serving.saturating_sub(1), queue.given_up.saturating_add(1));
            queue.serving > 0
        };
        self.put_back(spans);
        others
    }

    /// A connection leaves `spans` of what it has taken to whoever comes first.
    pub fn put_back(&self, spans: Vec<Range<u64>>) {
        let mut queue = self.queue();
        spans.into_iter().rev().for_each(|span| queue.spans.push_front(span));
        queue.taken = queue.taken.saturating_sub(1);
        drop(queue);
        self.changed.notify_waiters();
    }

    /// How many connections have given up.
    pub fn given_up(&self) -> u64 {
        self.queue().given_up
    }

    /// Whether one connection is left, of more that there were when `given_up` had given up. All of them are one task, so that what
    /// this says holds until the next await.
    pub fn is_left_alone(&self, given_up: u64) -> bool {
        let queue = self.queue();
        queue.serving == 1 && queue.given_up > given_up
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the round: a thread cannot go on.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.failure.notify_waiters();
        self.changed.notify_waiters();
    }

    async fn failed(&self) {
        loop {
            let failure = self.failure.notified();
            if self.failed.load(Ordering::Relaxed) {
                return;
            }
            failure.await;
        }
    }

    /// Runs the round. What was corrupt is still missing afterwards; who sent it is not asked again.
    ///
    /// # Errors
    /// The disk's, and the mirrors' when none of them can go on.
    pub async fn run(
        self: &Arc<Self>,
        fetch: impl AsyncFnOnce(&Self, &mpsc::Sender<Batch>) -> Result<()>,
    ) -> Result<()> {
        let (batches, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let workers: Vec<_> = (0..decoders())
            .map(|_| {
                let (round, waiting) = (Arc::clone(self), Arc::clone(&waiting));
                tokio::task::spawn_blocking(move || worker::work(&round, &waiting))
            })
            .collect();
        // A thread that failed has nobody wait for the network.
        let fetched = tokio::select! {
            fetched = fetch(self, &batches) => fetched,
            () = self.failed() => Ok(()),
        };
        drop(batches);
        let mut worked = Ok(());
        for worker in workers {
            let ended = worker.await.context("a thread that decodes ended without a result").and_then(|ended| ended);
            worked = worked.and(ended);
        }
        worked.and(fetched)
    }

    /// Fetches what is needed, by ranges.
    ///
    /// # Errors
    /// As [`Round::run`].
    pub async fn by_ranges(self: &Arc<Self>) -> Result<()> {
        self.run(async |round, batches| {
            let connections = (0..round.connections()).map(|_| connection::serve(round, batches));
            futures_util::future::try_join_all(connections).await.map(drop)
        })
        .await
    }
}
