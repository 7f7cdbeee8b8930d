//! Lines of a machine's console, and the events that some of them hold.

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// What the JSON lines begin with that an installer prints.
const EVENT: &str = "{\"metalstrap\":";

/// One JSON object that the guest printed.
#[derive(Debug, Clone)]
pub struct Event {
    /// When its line began to arrive, counted from power-on.
    pub at: Duration,
    /// The same by the host's clock.
    pub time: SystemTime,
    /// The object.
    pub value: Value,
}

/// One line that the guest printed.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it began to arrive, counted from power-on.
    pub at: Duration,
    /// The same by the host's clock.
    pub time: SystemTime,
    /// Its text without line end.
    pub text: String,
    /// Its end has come.
    pub complete: bool,
}

impl Line {
    /// The event that it holds; the kernel may have put its time before it.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        let json = self.text.get(self.text.find(EVENT)?..).filter(|_| self.complete)?;
        let value = serde_json::Deserializer::from_str(json).into_iter().next()?.ok()?;
        Some(Event { at: self.at, time: self.time, value })
    }
}
