//! The events that wait to be posted: bounded, never in anybody's way, the last one acknowledged before handoff.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::post::Poster;

/// Most events kept while no server takes them; the oldest go first, and the report says how many.
const CAPACITY: usize = 4096;
/// Most events and bytes of one POST; web servers take no more than 1 MiB unless told. A larger event goes alone.
const BATCH: (usize, usize) = (64, 128 << 10);
/// Time for one POST.
const POST_TIMEOUT: Duration = Duration::from_secs(15);
/// So often an event is tried as it is, where there is a shorter one.
const PATIENCE: u32 = 2;
/// First and longest pause after a POST that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A queue that any thread pushes into and one task empties.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    pushed: Notify,
    acknowledged: Notify,
    served: AtomicBool,
}

/// An event, one line of JSON.
#[derive(Debug)]
struct Waiting {
    line: String,
    /// What goes in its place when no server takes it.
    shorter: Option<String>,
    /// How often none did.
    failures: u32,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Waiting>,
    /// Events dropped for want of room.
    dropped: u64,
    last_error: Option<String>,
}

impl Outbox {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event, one line of JSON.
    pub fn push(&self, line: String) {
        self.push_or(line, None);
    }

    /// The same of one that may be longer than a server takes, or a slow link brings in time: then a `shorter` one goes in its place.
    pub fn push_or(&self, line: String, shorter: Option<String>) {
        let mut queue = self.queue();
        if queue.lines.len() == CAPACITY {
            queue.lines.pop_front();
            queue.dropped += 1;
        }
        queue.lines.push_back(Waiting { line, shorter, failures: 0 });
        drop(queue);
        self.0.pushed.notify_one();
    }

    /// Whether somebody posts the events.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.0.served.load(Ordering::Relaxed)
    }

    /// How many events wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue().lines.len()
    }

    /// Starts the task that posts what waits and what will come: at least once each, in order.
    pub fn start(&self, poster: Poster) {
        self.0.served.store(true, Ordering::Relaxed);
        tokio::spawn(self.clone().serve(poster));
    }

    async fn serve(self, poster: Poster) {
        let mut pause = PAUSE.0;
        loop {
            let (batch, dropped_before) = self.batch();
            if batch.is_empty() {
                self.0.pushed.notified().await;
                continue;
            }
            match poster.post(body(&batch), POST_TIMEOUT).await {
                Ok(()) => {
                    self.acknowledge(batch.len(), dropped_before);
                    pause = PAUSE.0;
                }
                Err(error) => {
                    self.failed(batch.len(), &error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// The first of what waits, as much as one POST takes, and how many events were dropped before it: one lock, so that
    /// the two belong together.
    fn batch(&self) -> (Vec<String>, u64) {
        let queue = self.queue();
        let mut bytes = 0;
        let fits = |line: &&String| {
            let first = bytes == 0;
            bytes += line.len() + 1;
            first || bytes <= BATCH.1
        };
        let lines = queue.lines.iter().map(|waiting| &waiting.line);
        (lines.take(BATCH.0).take_while(fits).cloned().collect(), queue.dropped)
    }

    /// How many events were dropped for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    /// The first so many events were not taken.
    fn failed(&self, count: usize, error: &anyhow::Error) {
        let mut queue = self.queue();
        queue.last_error = Some(format!("{error:#}"));
        for waiting in queue.lines.iter_mut().take(count) {
            waiting.failures += 1;
            if waiting.failures >= PATIENCE
                && let Some(shorter) = waiting.shorter.take()
            {
                waiting.line = shorter;
            }
        }
    }

    /// Removes the posted events, except those that were already dropped while the POST ran.
    fn acknowledge(&self, posted: usize, dropped_before: u64) {
        let mut queue = self.queue();
        let dropped_meanwhile = usize::try_from(queue.dropped - dropped_before).unwrap_or(usize::MAX);
        let count = posted.saturating_sub(dropped_meanwhile).min(queue.lines.len());
        queue.lines.drain(..count);
        queue.last_error = None;
        drop(queue);
        self.0.acknowledged.notify_waiters();
    }

    /// Waits until every event is acknowledged, at most `limit`.
    ///
    /// # Errors
    /// How many events are left and why the last POST failed.
    pub async fn settle(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let acknowledged = self.0.acknowledged.notified();
            if self.waiting() == 0 {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, acknowledged).await.is_err() {
                let queue = self.queue();
                let reason = queue.last_error.as_deref().unwrap_or("no answer yet");
                anyhow::bail!(
                    "{} events were not acknowledged within {} s: {reason}",
                    queue.lines.len(),
                    limit.as_secs()
                );
            }
        }
    }
}

fn body(lines: &[String]) -> Vec<u8> {
    let mut body = lines.join("\n").into_bytes();
    body.push(b'\n');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_for_an_acknowledgement_is_bounded() {
        let outbox = Outbox::default();
        outbox.push("{}".into());
        let error = outbox.settle(Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(error.to_string(), "1 events were not acknowledged within 60 s: no answer yet");
    }

    #[tokio::test]
    async fn an_empty_outbox_is_settled() {
        Outbox::default().settle(Duration::ZERO).await.unwrap();
    }

    #[test]
    fn a_batch_is_bounded_and_never_empty_while_something_waits() {
        let outbox = Outbox::default();
        outbox.push("x".repeat(BATCH.1 + 1));
        (0..100).for_each(|_| outbox.push("y".into()));
        assert_eq!(outbox.batch().0.len(), 1);
        outbox.acknowledge(1, 0);
        assert_eq!(outbox.batch().0.len(), BATCH.0);
        assert_eq!(outbox.dropped(), 0);
    }

    #[test]
    fn an_event_that_no_server_takes_becomes_a_shorter_one() {
        let outbox = Outbox::default();
        outbox.push("first".into());
        outbox.push_or("long".into(), Some("short".into()));
        let lines = || outbox.batch().0;
        outbox.failed(2, &anyhow::anyhow!("413"));
        // Only what was sent counts.
        outbox.failed(1, &anyhow::anyhow!("503"));
        assert_eq!(lines(), ["first", "long"]);
        outbox.failed(2, &anyhow::anyhow!("413"));
        assert_eq!(lines(), ["first", "short"]);
        assert_eq!(outbox.queue().last_error.as_deref(), Some("413"));
    }

    #[test]
    fn the_oldest_events_go_when_nobody_takes_them() {
        let outbox = Outbox::default();
        for number in 0..=CAPACITY {
            outbox.push(number.to_string());
        }
        assert_eq!(outbox.waiting(), CAPACITY);
        outbox.acknowledge(2, 0);
        assert_eq!(outbox.waiting(), CAPACITY - 1, "one of the two was dropped before it was acknowledged");
    }
}
