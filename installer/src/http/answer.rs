//! An answer as it comes in, with every wait for it bounded.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, RETRY_AFTER};
use tokio::time::Instant;

use super::date::parse_date;
use super::{Connection, Idle, Key, Limits, plain_error};
use crate::clock;

/// The most that is read of a body that nobody needs, in bytes: less than what a new connection costs.
const REST: u64 = 16 << 10;
/// The longest wait for it.
const PROMPT: Duration = Duration::from_secs(1);

/// An answer that comes, but too slowly. It says how slowly.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TooSlow(pub String);

/// An answer: its head, and its body piece by piece.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    pub(super) body: Incoming,
    pub(super) pace: Pace,
    pub(super) back: Option<(Idle, Key, Connection)>,
}

/// How fast an answer comes. Only time spent waiting for it counts: who receives may be slow.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    /// Of the window that is under way.
    waited: Duration,
    came: u64,
    /// Of the whole answer.
    waited_in_all: Duration,
    came_in_all: u64,
}

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, waited: Duration::ZERO, came: 0, waited_in_all: Duration::ZERO, came_in_all: 0 }
    }

    /// Counts a piece; an error when the answer has been slow as a whole, or at the end of a window that brought too little.
    fn count(&mut self, waited: Duration, piece: &Bytes) -> Result<()> {
        let Limits { window, window_bytes, grace, rate, .. } = self.limits;
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.waited_in_all = self.waited_in_all.saturating_add(waited);
        self.came_in_all = self.came_in_all.saturating_add(length);
        let (waited_in_all, came_in_all) = (self.waited_in_all, self.came_in_all);
        if waited_in_all > grace.saturating_add(Duration::from_secs(came_in_all.checked_div(rate).unwrap_or_default()))
        {
            return Err(TooSlow(format!("only {came_in_all} bytes came in {} s", waited_in_all.as_secs_f32())).into());
        }
        self.waited = self.waited.saturating_add(waited);
        self.came = self.came.saturating_add(length);
        if self.waited < window {
            return Ok(());
        }
        if self.came < window_bytes {
            return Err(TooSlow(format!("fewer than {window_bytes} bytes came in {} s", window.as_secs_f32())).into());
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(())
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end, after which the connection is free for the next request.
    ///
    /// # Errors
    /// When the connection breaks, or nothing or too little comes for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let stall = self.pace.limits.stall;
        loop {
            let asked = Instant::now();
            let frame = tokio::time::timeout(stall, self.body.frame())
                .await
                .map_err(|_elapsed| anyhow!("nothing more came for {} s", stall.as_secs_f32()))?;
            match frame {
                None => {
                    self.give_back();
                    return Ok(None);
                }
                Some(frame) => {
                    // Trailers say nothing we need.
                    if let Ok(data) = frame.map_err(plain_error)?.into_data() {
                        self.pace.count(asked.elapsed(), &data)?;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, at most `limit` bytes; `None`: it is larger.
    ///
    /// # Errors
    /// As [`Answer::chunk`].
    pub async fn whole(&mut self, limit: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len().saturating_add(chunk.len()) > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Reads what is left of a body that nobody needs, so that the connection is free for the next request. Where that
    /// is more than a little, or does not come at once, the connection is closed instead, which is cheaper.
    pub async fn finish(mut self) {
        // What is left by the length that the server said.
        if self.body.size_hint().lower() > REST {
            return;
        }
        let mut left = REST;
        let rest = async {
            while let Ok(Some(chunk)) = self.chunk().await {
                left = left.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                if left == 0 {
                    return;
                }
            }
        };
        // Late or in time: dropped, a connection that was not given back closes.
        let _late = tokio::time::timeout(PROMPT, rest).await;
    }

    /// How long the server asks to be left alone: `Retry-After`, a number of seconds or an HTTP date (RFC 9110 section
    /// 10.2.3), which is judged by this machine's clock.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        seconds_asked(self.header(&RETRY_AFTER)?.trim(), clock::now()).map(Duration::from_secs)
    }

    /// A header's text; `None` where it is absent or no text.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body's length, where the server said it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.parse().ok()
    }

    fn give_back(&mut self) {
        if let Some((idle, authority, connection)) = self.back.take()
            && self.body.is_end_stream()
        {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.entry(authority).or_default().push(connection);
        }
    }
}

/// The seconds that a `Retry-After` asks for at `now`. A number that is larger than any is long, not none: how long is waited has
/// a limit anyway.
fn seconds_asked(text: &str, now: i64) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().unwrap_or(u64::MAX));
    }
    parse_date(text).map(|date| u64::try_from(date.saturating_sub(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_a_number_of_any_length_or_a_date() {
        let now = 784_111_777;
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", Some(u64::MAX)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("", None),
            ("+5", None),
            ("-5", None),
            ("soon", None),
        ] {
            assert_eq!(seconds_asked(text, now), seconds, "{text}");
        }
        // However long that is, the machine comes back.
        let limits = Limits::default();
        let pause = super::super::pause(&limits, Some(Duration::from_secs(u64::MAX)), 1);
        assert!((limits.asked_most..=limits.asked_most * 2).contains(&pause), "{pause:?}");
    }

    /// What becomes of an answer of `bytes` that comes evenly at `rate` bytes a second: the seconds after which it is given
    /// up, if it is.
    fn given_up(rate: u64, bytes: usize) -> Option<u64> {
        let mut pace = Pace::new(Limits::default());
        let piece = Bytes::from(vec![0; 4096]);
        let waited = Duration::from_micros(4096 * 1_000_000 / rate);
        let mut waits = (1..=bytes as u64 / 4096).map(|count| (count, pace.count(waited, &piece)));
        let (count, _) = waits.find(|(_, counted)| counted.is_err())?;
        Some((waited * u32::try_from(count).unwrap()).as_secs())
    }

    #[test]
    fn a_slow_server_is_left_soon_and_a_shared_link_is_not() {
        const REQUEST: usize = 8 << 20;
        // 10 Mbit/s for 16 connections, of which nine tenths are content, and a connection that gets half of its share.
        let share = 10_000_000 / 8 / 16 * 9 / 10;
        assert_eq!([given_up(share, REQUEST), given_up(share / 2, REQUEST)], [None, None]);
        // More than the window asks for, and two hours for the whole.
        let slow = given_up(1150, REQUEST).unwrap();
        assert!((60..90).contains(&slow), "{slow}");
        // As slow, but it is soon over.
        assert_eq!(given_up(1150, 64 << 10), None);
    }
}
