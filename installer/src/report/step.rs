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
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::Screen;
    use super::*;
    use crate::ending::EndingPipe;
    use crate::progress::LooksAt;

    #[derive(Debug, Clone, Default)]
    struct Shown {
        progress: Arc<Mutex<String>>,
        event: Arc<Mutex<Value>>,
    }

    impl Screen for Shown {
        fn line(&self, _: &str) {}
        fn progress(&self, text: &str) {
            *self.progress.lock().unwrap() = text.to_owned();
        }
        fn event(&self, json: &str) {
            *self.event.lock().unwrap() = serde_json::from_str(json).unwrap();
        }
    }

    /// A running step, what is shown of it, and what its supervisor hears.
    fn running() -> (Ticker, Shown, EndingPipe) {
        let (pipe, shown) = (EndingPipe::nowhere(), Shown::default());
        let tell = Reporter::new("r".into(), Box::new(shown.clone()), Some(pipe.clone()));
        (Ticker::new(tell, "root", "Writing the root file system".into()), shown, pipe)
    }

    #[test]
    fn looking_is_life_and_has_a_rate_and_an_end_of_its_own() {
        let (mut ticker, shown, pipe) = running();
        let progress = Progress::default();
        progress.expect(4 << 20);
        progress.looks_at(LooksAt::Seeds, 8 << 20);
        let tick = |ticker: &mut Ticker| {
            ticker.tick(&progress);
            shown.progress.lock().unwrap().clone()
        };
        assert_eq!(tick(&mut ticker), "Looking at other slots: 0 B of 8.0 MiB (0%)");
        let before = pipe.stirred();
        tick(&mut ticker);
        assert_eq!(pipe.stirred(), before);
        progress.looked(2 << 20);
        ticker.last_event = Instant::now().checked_sub(PROGRESS_EVENT).unwrap();
        let line = tick(&mut ticker);
        assert!(line.starts_with("Looking at other slots: 2.0 MiB of 8.0 MiB (25%), "), "{line}");
        assert!(line.ends_with(" s left"), "{line}");
        assert_ne!(pipe.stirred(), before);
        let event = shown.event.lock().unwrap().clone();
        let look = &event["fields"]["look"];
        assert!(look["at"] == "seeds" && look["done"] == 2 << 20 && look["total"] == 8 << 20, "{event}");
        assert!(look["bytes_per_second"].as_u64() > Some(0) && look["seconds_left"].is_u64(), "{event}");
        progress.looks_at(LooksAt::InPlace, 100);
        assert_eq!(tick(&mut ticker), "Looking at what is there: 0 B of 100 B (0%)");
        progress.has_looked();
        let line = tick(&mut ticker);
        assert!(line.starts_with("Writing the root file system: 0 B of 4.0 MiB (0%)"), "{line}");
    }

    /// As a second run finds it: most is kept within seconds, zeroes are made at once, and then a slow link brings the rest.
    #[test]
    fn what_is_fetched_has_a_rate_without_what_was_kept() {
        let (mut ticker, shown, _) = running();
        let (progress, start) = (Progress::default(), Instant::now());
        let mut tick = |millis| {
            ticker.tick_at(&progress, start + Duration::from_millis(millis));
            shown.progress.lock().unwrap().clone()
        };
        progress.expect(4 << 30);
        progress.looks_at(LooksAt::InPlace, 4 << 30);
        tick(0);
        progress.keeps(2 << 30);
        progress.looked(2 << 30);
        let line = tick(250);
        assert_eq!(line, "Looking at what is there: 2.0 GiB of 4.0 GiB (50%), 8.0 GiB/s, 0 s left; 2.0 GiB kept");
        progress.has_looked();
        assert_eq!(tick(500), "Writing the root file system: 2.0 GiB of 4.0 GiB (50%); 2.0 GiB kept");
        progress.zeroes(1 << 30);
        tick(750);
        // A wait for the server shows at once, and what was fast before does not hide it.
        ticker.tell.waits().until(start + Duration::from_secs(600), "https://repo.test is left alone");
        progress.brings(1 << 18);
        ticker.tick_at(&progress, start + Duration::from_secs(1));
        let line = shown.progress.lock().unwrap().clone();
        let text = "Writing the root file system: 3.0 GiB of 4.0 GiB (75%); https://repo.test is left alone, for ";
        assert!(line.starts_with(text), "{line}");
        ticker.tell.waits().over();
        let mut tick = |millis| ticker.tick_at(&progress, start + Duration::from_millis(millis));
        for quarter in 1..=20 {
            progress.brings(1 << 18);
            tick(1000 + 250 * quarter);
        }
        let line = shown.progress.lock().unwrap().clone();
        assert!(line.contains(" GiB (75%), 1.0 MiB/s, 1018 s left; 2.0 GiB kept, 1.0 GiB zero, "), "{line}");
        let event = shown.event.lock().unwrap().clone();
        assert_eq!(event["fields"]["bytes_per_second"], 1 << 20, "{event}");
        assert!(event["fields"]["seconds_left"].as_u64().is_some_and(|left| (1018..1024).contains(&left)), "{event}");
    }

    #[test]
    fn a_wait_is_life_until_its_end_and_no_longer() {
        let (mut ticker, _, pipe) = running();
        let progress = Progress::default();
        let waits = ticker.tell.waits();
        let mut alive = || {
            let before = pipe.stirred();
            ticker.tick(&progress);
            pipe.stirred() != before
        };
        let end = Instant::now() + Duration::from_millis(500);
        waits.until(end, "https://repo.test is left alone");
        assert!(alive());
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        assert!(!alive());
        waits.until(Instant::now() + Duration::from_secs(600), "https://repo.test is left alone");
        assert!(alive());
        waits.over();
        assert!(!alive());
    }

    #[test]
    fn a_wait_with_a_known_end_is_life() {
        let (mut ticker, shown, pipe) = running();
        let alive = |ticker: &mut Ticker, progress: &Progress| {
            let before = pipe.stirred();
            ticker.tick(progress);
            pipe.stirred() != before
        };
        let progress = Progress::default();
        assert!(!alive(&mut ticker, &progress));
        // As a reactor that stopped leaves it: what is waited for is said once, and then no more.
        progress.waits_for("eth0: no carrier yet");
        assert!(alive(&mut ticker, &progress) && !alive(&mut ticker, &progress));
        let progress = Progress::default();
        let end = Instant::now() + Duration::from_secs(600);
        ticker.tell.waits().until(end, "https://repo.test is left alone");
        assert!(alive(&mut ticker, &progress) && alive(&mut ticker, &progress));
        let text = "Writing the root file system: https://repo.test is left alone, for ";
        let line = shown.progress.lock().unwrap().clone();
        assert!(line.starts_with(text), "{line}");
        // Where there is something to be done it stands behind how far that is.
        progress.expect(100);
        assert!(alive(&mut ticker, &progress));
        let line = shown.progress.lock().unwrap().clone();
        assert!(line.contains("stalled; https://repo.test is left alone, for "), "{line}");
    }
}
