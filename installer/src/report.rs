//! Events and steps: the wrapper around each step says started, progress, done or failed, so that no body does.
//!
//! # Design
//! Every event is one JSON object on one line (`docs/events.md`). It goes to the kernel's log and the [`Screen`] at once,
//! and into the [`Outbox`](crate::outbox::Outbox), whose task posts it when there is a network: telling never waits for anybody.

mod step;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::ending::EndingPipe;
use crate::escapes;
use crate::failure::Touched;
use crate::outbox::Outbox;
use crate::progress::Progress;
use crate::waits::Waits;
use step::Running;

/// Version of the event format: the value of each event's first member.
pub const EVENT_FORMAT: u32 = 1;

/// One event; the order of members is that of the text, whose beginning readers of a serial log look for.
#[derive(Debug, Serialize)]
struct Event<'a> {
    metalstrap: u32,
    run: &'a str,
    sequence: u64,
    at: f64,
    step: &'a str,
    state: &'a str,
    fields: Map<String, Value>,
}

impl Event<'_> {
    /// One line of JSON; none if it has no such form, as everything here has.
    fn line(&self) -> Option<String> {
        serde_json::to_string(self).ok().map(|line| escapes::json(&line))
    }
}

/// Seconds until a reboot where no site config says otherwise.
const REBOOT_WITHOUT_SITE_CONFIG: u32 = 300;
/// Where a person and a program on the serial line read.
pub trait Screen: Send + Sync + Debug {
    /// A line for a person, kept.
    fn line(&self, text: &str);
    /// A line for a person that the next one replaces where the screen can do that.
    fn progress(&self, text: &str);
    /// An event, as one line of JSON.
    fn event(&self, json: &str);
    /// Shows on these consoles too, and returns the names of those that are not there.
    fn show_on(&self, _consoles: &[String]) -> Vec<String> {
        Vec::new()
    }
}

/// Tells what happens. Clones tell into the same run.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Run>);

#[derive(Debug)]
struct Run {
    id: String,
    /// Held while an event is told, so that events reach screen and report in the order of their numbers.
    sequence: Mutex<u64>,
    started: Instant,
    screen: Box<dyn Screen>,
    outbox: Outbox,
    /// Where the supervisor hears which step runs.
    supervisor: Option<EndingPipe>,
    waits: Waits,
    now: Mutex<Now>,
}

/// What a sudden end would have to say.
#[derive(Debug, Default)]
struct Now {
    step: String,
    touched: Touched,
    reboot_on_failure_after: Option<Option<u32>>,
    /// Mirrors that lied, each with the reason.
    mirrors_dropped: Vec<String>,
}

impl Reporter {
    /// A run with an id that no other run has.
    #[must_use]
    pub fn new(id: String, screen: Box<dyn Screen>, supervisor: Option<EndingPipe>) -> Self {
        Self(Arc::new(Run {
            id,
            sequence: Mutex::new(0),
            started: Instant::now(),
            screen,
            outbox: Outbox::default(),
            supervisor,
            waits: Waits::default(),
            now: Mutex::default(),
        }))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step that runs, or ran last.
    #[must_use]
    pub fn current_step(&self) -> String {
        self.now().step.clone()
    }

    /// How far the run got with the disk.
    #[must_use]
    pub fn touched(&self) -> Touched {
        self.now().touched.clone()
    }

    /// Says how far the run got with the disk: before the first write, and when the release is complete.
    pub fn touches(&self, touched: Touched) {
        self.now().touched = touched;
        self.tell_supervisor();
    }

    fn tell_supervisor(&self) {
        if let Some(supervisor) = &self.0.supervisor {
            let now = self.now();
            supervisor.step(&now.step, &now.touched);
        }
    }

    fn stir_supervisor(&self, bytes: u64, waits: bool) {
        self.0.supervisor.iter().for_each(|supervisor| supervisor.stir(bytes, waits));
    }

    /// Takes the site config's rule for failures: seconds until a reboot, `None` to hold for a person.
    pub fn obey(&self, reboot_on_failure_after: Option<u32>) {
        self.now().reboot_on_failure_after = Some(reboot_on_failure_after);
        if let Some(supervisor) = &self.0.supervisor {
            supervisor.policy(reboot_on_failure_after);
        }
    }

    /// Takes the site config's consoles: what happens is shown on them too from here on, also after a sudden death.
    pub fn show_on(&self, consoles: &[String]) {
        if consoles.is_empty() {
            return;
        }
        for name in self.0.screen.show_on(consoles) {
            self.warn("site-config", &format!("the site config's console {name} is no terminal of this machine"));
        }
        self.0.supervisor.iter().for_each(|supervisor| supervisor.consoles(consoles));
    }

    /// Tells the supervisor that the installed OS takes over a watchdog that it gets with so many `seconds`.
    pub fn leaves_watchdog(&self, seconds: u32) {
        self.0.supervisor.iter().for_each(|supervisor| supervisor.watchdog(seconds));
    }

    /// That rule; before the site config is read, five minutes.
    #[must_use]
    pub fn reboot_after(&self) -> Option<u32> {
        self.now().reboot_on_failure_after.unwrap_or(Some(REBOOT_WITHOUT_SITE_CONFIG))
    }

    /// The events that wait to be posted.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// Where those who wait for a known time say so: that is life, though nothing else stirs.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.0.waits.clone()
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.0.id
    }

    /// Seconds since the run began.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.0.started.elapsed().as_secs_f64()
    }

    /// A line for the person at the console, no event.
    pub fn say(&self, text: &str) {
        self.0.screen.line(text);
    }

    /// An event outside of a step's start and end: `fields` are its details.
    pub fn tell(&self, step: &str, state: &str, fields: Map<String, Value>) {
        self.tell_and_post(step, state, fields, [Map::new(), Map::new()]);
    }

    /// The same with fields that are `posted` and shown nowhere: they are long, and serial lines are slow. Where no server takes them
    /// there are others `instead`.
    pub fn tell_and_post(
        &self,
        step: &str,
        state: &str,
        fields: Map<String, Value>,
        [posted, instead]: [Map<String, Value>; 2],
    ) {
        let mut sequence = self.0.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let mut event = Event {
            metalstrap: EVENT_FORMAT,
            run: &self.0.id,
            sequence: *sequence,
            at: rounded(self.seconds()),
            step,
            state,
            fields,
        };
        let Some(mut line) = event.line() else { return };
        *sequence += 1;
        log::info!("{line}");
        self.0.screen.event(&line);
        let mut shorter = None;
        if !posted.is_empty() {
            let shown = event.fields.clone();
            event.fields.extend(posted);
            line = event.line().unwrap_or(line);
            event.fields = shown;
            event.fields.extend(instead);
            shorter = event.line();
        }
        self.0.outbox.push_or(line, shorter);
    }

    /// The line with which the installed OS confirms that a kexec led to it: an event of this run, whose number and time nobody
    /// knows, and so 0.
    #[must_use]
    pub fn confirmation(&self, release: &str) -> String {
        let fields = fields([("release", release.into())]);
        let (metalstrap, run) = (EVENT_FORMAT, self.run_id());
        let event = Event { metalstrap, run, sequence: 0, at: 0.0, step: "run", state: "confirmed", fields };
        event.line().map(|line| format!("{line}\n")).unwrap_or_default()
    }

    /// A line for the person and an event with the same text.
    pub fn warn(&self, step: &str, text: &str) {
        let text = escapes::line(text);
        self.say(&format!("warning: {text}"));
        self.tell(step, "warning", fields([("message", text.into())]));
    }

    /// Tells that nothing of a mirror is believed any more, and `why`.
    pub fn drops(&self, mirror: &str, why: &str) {
        self.now().mirrors_dropped.push(escapes::line(&format!("{mirror}: {why}")));
        self.warn(&self.current_step(), &format!("mirror {mirror} is dropped: {why}"));
    }

    /// The mirrors that were dropped in this run, each with the reason.
    #[must_use]
    pub fn mirrors_dropped(&self) -> Vec<String> {
        self.now().mirrors_dropped.clone()
    }

    /// Runs a step; `text` is a gerund with the object ("Reading the site config") and becomes context of its error.
    ///
    /// # Errors
    /// The step's, with `text` before it.
    pub fn step<T>(&self, id: &'static str, text: &str, body: impl FnOnce(&Progress) -> Result<T>) -> Result<T> {
        let running = Running::start(self, id, text);
        let result = body(&running.progress.clone());
        running.end(result)
    }

    /// The same for a step that waits.
    ///
    /// # Errors
    /// The step's, with `text` before it.
    pub async fn wait<T>(
        &self,
        id: &'static str,
        text: &str,
        body: impl AsyncFnOnce(Progress) -> Result<T>,
    ) -> Result<T> {
        let running = Running::start(self, id, text);
        let result = body(running.progress.clone()).await;
        running.end(result)
    }
}

/// Fields of an event.
pub fn fields<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
