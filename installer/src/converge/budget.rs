//! What a cut may cost: frames that were asked of a mirror and are not on stable storage yet.
//!
//! # Design
//! A connection asks for a range only when it has a [`Share`] of the [`Budget`] for all of its bytes. The share goes with the
//! frames wherever they are: on their way (in the server's and in the kernel's buffers too), cut into frames, waiting for a
//! thread, in its hands, in the queue of writes, in the drive's cache. It comes back when a flush has covered them, or when
//! they are thrown away. So whatever is cut, and whenever, no more frames than the budget has bytes for were asked for in vain.
//!
//! Nobody waits for ever: what is on its way and what threads have ends as written, and of what is written less than a
//! quarter of the budget waits for a flush ([`Budget::flush_each`]), while no share is larger than the rest.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may be at risk.
#[derive(Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    all: u32,
}

/// A part of a budget, which goes back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS))), all }
    }

    /// A flush is due when so many bytes wait for one.
    pub fn flush_each(&self) -> u64 {
        u64::from(self.all / 4)
    }

    /// What `connections` may ask for at a time, each, so that half of the budget is left for what has come.
    pub fn request(&self, connections: u64) -> u64 {
        u64::from(self.all / 2).checked_div(connections).unwrap_or_default()
    }

    /// A share of so many bytes, as soon as they are free. None is larger than what flushes always give back.
    pub async fn take(&self, bytes: u64) -> Share {
        let largest = self.all.saturating_sub(self.all / 4);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(largest);
        // Only a closed one gives none, and nobody closes it.
        Share(Arc::clone(&self.free).acquire_many_owned(bytes).await.ok())
    }
}

impl Share {
    /// Takes so many bytes out of it, or what it has if that is less.
    pub fn split(&mut self, bytes: u64) -> Self {
        let Some(permit) = &mut self.0 else { return Self::default() };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(permit.num_permits());
        Self(permit.split(bytes))
    }

    /// Adds another share of the same budget.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(permit), Some(other)) => permit.merge(other),
            (None, Some(other)) => self.0 = Some(other),
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_is_free_again_when_its_last_part_is_dropped() {
        let budget = Budget::new(1000);
        assert_eq!((budget.flush_each(), budget.request(4)), (250, 125));
        let mut whole = budget.take(600).await;
        let part = whole.split(200);
        assert_eq!(budget.free.available_permits(), 400);
        let rest = whole.split(1000);
        assert_eq!(rest.0.as_ref().map(OwnedSemaphorePermit::num_permits), Some(400));
        drop(rest);
        assert_eq!(budget.free.available_permits(), 800);
        let mut other = budget.take(100).await;
        other.merge(part);
        drop(whole);
        assert_eq!(budget.free.available_permits(), 700);
        other.merge(Share::default());
        drop(other);
        assert_eq!(budget.free.available_permits(), 1000);
    }

    #[tokio::test]
    async fn who_asks_for_more_than_there_is_gets_what_flushes_give_back() {
        let budget = Budget::new(1000);
        let waits_for_a_flush = budget.take(249).await;
        assert_eq!(budget.take(5000).await.0.unwrap().num_permits(), 750);
        drop(waits_for_a_flush);
    }
}
