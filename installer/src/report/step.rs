//! A running step: its start, its progress while it runs, and its end as lines and events.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use serde_json::{Map, Value};

use super::{Reporter, fields, rounded};
use crate::escapes;
use crate::progress::{Look, Progress, Rate};

/// How often a running step is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often a running step makes a progress event.
const PROGRESS_EVENT: Duration = Duration::from_secs(5);

/// A step between its start and its end; a thread of its own tells how far it is.
pub(super) struct Running<'a> {
    tell: &'a Reporter,
    id: &'static str,
    text: String,
    pub(super) progress: Progress,
    started: Instant,
    stop: Sender<()>,
    ticker: JoinHandle<()>,
}

impl<'a> Running<'a> {
    pub(super) fn start(tell: &'a Reporter, id: &'static str, text: &str) -> Self {
        tell.now().step = id.to_owned();
        tell.tell_supervisor();
        tell.tell(id, "started", fields([("text", text.into())]));
        let progress = Progress::default();
        let (stop, stopped) = channel();
        let ticker = {
            let (tell, progress, text) = (tell.clone(), progress.clone(), text.to_owned());
            std::thread::spawn(move || {
                let mut ticker = Ticker::new(tell, id, text);
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    ticker.tick(&progress);
                }
            })
        };
        Self { tell, id, text: text.to_owned(), progress, started: Instant::now(), stop, ticker }
    }

    pub(super) fn end<T>(self, result: Result<T>) -> Result<T> {
        drop(self.stop);
        // A ticker that panicked has nothing left to tell.
        let _ = self.ticker.join();
        let seconds = rounded(self.started.elapsed().as_secs_f64());
        let (done, _, fetched) = self.progress.snapshot();
        let mut details = fields([("seconds", seconds.into())]);
        if done > 0 {
            details.insert("bytes".into(), done.into());
            details.insert("fetched".into(), fetched.into());
            insert_parts(&mut details, &self.progress);
        }
        if let Some(first) = self.progress.first_fetched() {
            details.insert("first_byte_seconds".into(), rounded((first - self.started).as_secs_f64()).into());
        }
        match &result {
            Ok(_) => {
                let parts = self.progress.parts_text().map(|parts| format!(" ({parts})")).unwrap_or_default();
                let size = if done > 0 { format!(", {}{parts}", crate::progress::size(done)) } else { String::new() };
                self.tell.say(&format!("[{:7.1}] {}: done in {seconds:.2} s{size}", self.tell.seconds(), self.text));
                self.tell.tell(self.id, "done", details);
            }
            Err(error) => {
                self.tell.say(&format!("[{:7.1}] {}: failed after {seconds:.2} s", self.tell.seconds(), self.text));
                details.insert("error".into(), escapes::line(&format!("{error:#}")).into());
                self.tell.tell(self.id, "failed", details);
            }
        }
        result.with_context(|| lower_first(&self.text))
    }
}

/// Turns a step's counters into lines and events.
struct Ticker {
    tell: Reporter,
    id: &'static str,
    text: String,
    rate: Rate,
    /// What `rate` is the rate of.
    phase: Phase,
    /// Of the look with this number.
    look_rate: (u64, Rate),
    last_event: Instant,
}

impl Ticker {
    fn new(tell: Reporter, id: &'static str, text: String) -> Self {
        let (rate, phase, look_rate) = (Rate::default(), Phase::default(), (0, Rate::default()));
        Self { tell, id, text, rate, phase, look_rate, last_event: Instant::now() }
    }

    fn tick(&mut self, progress: &Progress) {
        self.tick_at(progress, Instant::now());
    }

    fn tick_at(&mut self, progress: &Progress, now: Instant) {
        let (done, total, fetched) = progress.snapshot();
        let wait = self.tell.waits().at(now);
        self.tell.stir_supervisor(progress.stirred(), wait.is_some());
        if self.phase.turns(progress) {
            self.rate = Rate::default();
        }
        self.rate.observe(done, now);
        let look = progress.look();
        if let Some(look) = look {
            if self.look_rate.0 != look.number {
                self.look_rate = (look.number, Rate::default());
            }
            self.look_rate.1.observe(look.done, now);
        }
        if total == 0 {
            if let Some(note) = progress.note().or(wait) {
                self.tell.0.screen.progress(&format!("{}: {note}", self.text));
            }
            return;
        }
        let (text, rate) = match look {
            Some(look) => (look.at.text(), self.look_rate.1.text(look.done, look.total)),
            None => (self.text.as_str(), self.rate.text(done, total)),
        };
        // Whatever else there is to say, where nothing comes for want of a server that is what matters.
        let more = wait.filter(|_| self.rate.per_second() == 0).or_else(|| progress.parts_text());
        let more = more.map(|more| format!("; {more}")).unwrap_or_default();
        self.tell.0.screen.progress(&format!("{text}: {rate}{more}"));
        if now.saturating_duration_since(self.last_event) >= PROGRESS_EVENT {
            self.last_event = now;
            let mut details = fields([("done", done.into()), ("total", total.into()), ("fetched", fetched.into())]);
            insert_parts(&mut details, progress);
            details.insert("bytes_per_second".into(), self.rate.per_second().into());
            details.insert("seconds_left".into(), self.rate.seconds_left(done, total).into());
            if let Some(look) = look {
                details.insert("look".into(), self.look_fields(look).into());
            }
            self.tell.tell(self.id, "progress", details);
        }
    }

    fn look_fields(&self, look: Look) -> Map<String, Value> {
        let rate = &self.look_rate.1;
        fields([
            ("at", look.at.id().into()),
            ("done", look.done.into()),
            ("total", look.total.into()),
            ("bytes_per_second", rate.per_second().into()),
            ("seconds_left", rate.seconds_left(look.done, look.total).into()),
        ])
    }
}

/// What moves the bytes that are done. Each phase has a rate of its own: a look keeps in seconds what would take minutes to
/// fetch.
#[derive(Debug, Default)]
struct Phase {
    /// Looks that began and ended before it, in sum.
    looks: u64,
    /// Bytes of content that were fetched by then.
    brought: u64,
    /// Whether more have come since.
    fetches: bool,
}

impl Phase {
    /// Whether another one has begun: a look began or ended, or the first content after that has come.
    fn turns(&mut self, progress: &Progress) -> bool {
        let (looks, [.., brought]) = (progress.turns(), progress.parts());
        if looks != self.looks {
            *self = Self { looks, brought, fetches: false };
            return true;
        }
        let begins = !self.fetches && brought > self.brought;
        self.fetches |= begins;
        begins
    }
}

/// How the bytes came to their place, where they did.
fn insert_parts(details: &mut Map<String, Value>, progress: &Progress) {
    let [kept, zero, copied, brought] = progress.parts();
    if kept + zero + copied + brought > 0 {
        let parts = serde_json::json!({"kept": kept, "zero": zero, "copied": copied, "fetched": brought});
        details.insert("content".into(), parts);
    }
}

/// "Reading X" as context of an error: "reading X".
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
