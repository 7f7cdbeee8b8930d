//! A running step: its start, its progress while it runs, and its end as lines and events.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use serde_json::{Map, Value};

use super::{Reporter, fields, rounded};
use crate::progress::{Progress, Rate};

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
                let mut ticker = Ticker { tell, id, text, rate: Rate::default(), last_event: Instant::now() };
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
                details.insert("error".into(), format!("{error:#}").into());
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
    last_event: Instant,
}

impl Ticker {
    fn tick(&mut self, progress: &Progress) {
        let (done, total, fetched) = progress.snapshot();
        self.tell.stir_supervisor(done.wrapping_add(fetched), progress.note().is_some());
        self.rate.observe(done, Instant::now());
        if total == 0 {
            if let Some(note) = progress.note() {
                self.tell.0.screen.progress(&format!("{}: {note}", self.text));
            }
            return;
        }
        let parts = progress.parts_text().map(|parts| format!("; {parts}")).unwrap_or_default();
        self.tell.0.screen.progress(&format!("{}: {}{parts}", self.text, self.rate.text(done, total)));
        if self.last_event.elapsed() >= PROGRESS_EVENT {
            self.last_event = Instant::now();
            let mut details = fields([("done", done.into()), ("total", total.into()), ("fetched", fetched.into())]);
            insert_parts(&mut details, progress);
            details.insert("bytes_per_second".into(), self.rate.per_second().into());
            details.insert("seconds_left".into(), self.rate.seconds_left(done, total).into());
            self.tell.tell(self.id, "progress", details);
        }
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
