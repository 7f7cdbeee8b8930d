//! One round of fetching: the frames that are needed, over several connections, into the hands of the threads that decode
//! and write them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
/// together.
const MOST: u64 = 8 << 20;
const LEAST: u64 = 256 << 10;
const ROUNDS: u64 = 3;
/// Memory for decoded content.
const MEMORY: u64 = 32 << 20;
/// Batches that wait for a thread.
const WAITING: usize = 4;

/// What connections and threads of a round share.
#[derive(Debug)]
pub(super) struct Round {
    pub goal: Goal,
    /// The blocks that are in their place or on their way to it.
    pub have: Arc<BlockSet>,
    pub needed: Needed,
    pub output: Arc<Output>,
    pub pool: BufferPool,
    queue: Mutex<VecDeque<Range<u64>>>,
    left: AtomicU64,
    failed: AtomicBool,
    failure: Notify,
}

impl Round {
    /// A round for `needed` frames of the goal's payload, of which the largest has `largest` bytes of content.
    pub fn new(goal: &Goal, have: &Arc<BlockSet>, needed: Needed, largest: u64, output: &Arc<Output>) -> Result<Self> {
        let capacity = largest.max(PIECE.saturating_mul(BLOCK));
        let count = (MEMORY / capacity).clamp(2, 64);
        let queue = needed.frames.present(needed.frames.range()).collect();
        Ok(Self {
            goal: goal.clone(),
            have: Arc::clone(have),
            left: AtomicU64::new(needed.bytes),
            needed,
            output: Arc::clone(output),
            pool: BufferPool::new(usize::try_from(count)?, usize::try_from(capacity)?),
            queue: Mutex::new(queue),
            failed: AtomicBool::new(false),
            failure: Notify::new(),
        })
    }

    fn connections(&self) -> u64 {
        self.goal.frames.mirrors.connections()
    }

    /// The next frames for a connection, in a row; `size` says how many bytes a frame has.
    pub fn take(&self, size: impl Fn(u64) -> u64) -> Option<Range<u64>> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let shares = ROUNDS.saturating_mul(self.connections());
        let most = self.left.load(Ordering::Relaxed).checked_div(shares).unwrap_or(MOST).clamp(LEAST, MOST);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let run = queue.pop_front()?;
        let (mut end, mut bytes) = (run.start, 0_u64);
        while end < run.end && (end == run.start || bytes.saturating_add(size(end)) <= most) {
            bytes = bytes.saturating_add(size(end));
            end += 1;
        }
        if end < run.end {
            queue.push_front(end..run.end);
        }
        drop(queue);
        self.left.fetch_sub(bytes.min(self.left.load(Ordering::Relaxed)), Ordering::Relaxed);
        Some(run.start..end)
    }

    /// Ends the round: a thread cannot go on.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.failure.notify_waiters();
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
        let workers: Vec<_> = (0..threads())
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
